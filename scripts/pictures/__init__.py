"""The dashboards as pictures: a service under load is watched by Prometheus, and its panels are drawn by Grafana's own.

Development only: `make pictures`. Nothing here ships.
"""

// Checks objects of operators, a JSON list on standard input, against their schemas; prints what is wrong, line by line.
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { readFileSync } from "node:fs";

const KINDS = { ScaledObject, PrometheusRule, ServiceMonitor };

for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    new KINDS[object.kind](object).validate();
  } catch (error) {
    console.log(`${object.kind} ${object.metadata?.name}: ${error.message}`);
  }
}

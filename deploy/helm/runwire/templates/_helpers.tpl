{{- define "runwire.fullname" -}}
{{- if contains "runwire" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "runwire-%s" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Alerts look at jobs called runwire or runwire-..., and tell deployments apart by them. */}}
{{- define "runwire.job" -}}
{{- $name := .Values.serviceMonitor.job | default (include "runwire.fullname" .) -}}
{{- if hasPrefix "runwire" $name -}}{{ $name }}{{- else -}}runwire-{{ $name }}{{- end -}}
{{- end -}}

{{- define "runwire.selector" -}}
app.kubernetes.io/name: runwire
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "runwire.labels" -}}
{{ include "runwire.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "runwire.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "runwire.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

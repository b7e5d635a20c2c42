{{/* The ConfigMap with the shares of all rollouts, and the Role for it. The controller creates the ConfigMap: an object of
     the chart would be reset by an upgrade. */}}
{{- define "router-service.weights" -}}{{ include "router-service.fullname" . }}-weights{{- end }}

{{/* The controller's pods must not be endpoints of the routers' Services. */}}
{{- define "router-service.rolloutSelector" -}}
app.kubernetes.io/name: {{ include "router-service.name" . }}-rollout
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "router-service.rolloutLabels" -}}
{{- merge (include "router-service.rolloutSelector" . | fromYaml) (include "router-service.labels" . | fromYaml) | toYaml -}}
{{- end }}

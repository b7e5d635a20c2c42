{{/* The name of a ConfigMap: `own` if set, otherwise the release's prefix and `part`. */}}
{{- define "observability.configMap" -}}
{{- .own | default (printf "%s-%s" (include "observability.prefix" .root) .part) -}}
{{- end }}

{{/* The prefix of object names. Other charts mount the ConfigMaps with the default prefix. */}}
{{- define "observability.prefix" -}}{{ .Values.fullnameOverride | default "llm-platform" }}{{- end }}

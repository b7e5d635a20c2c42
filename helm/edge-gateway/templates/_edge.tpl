{{/* The Envoy configuration: one of the chart's, rendered for each choice, or the given one. No credential is in it. */}}
{{- define "envoy" -}}
{{- $own := .Values.envoy -}}
{{- if $own -}}
{{- range $key, $sign := dict "tls" "/etc/edge/edge_certificate.yaml" "budgets" "cluster_name: rate_limit_service" -}}
{{- $said := (index $.Values $key).enabled -}}
{{- if ne $said (contains $sign $own) -}}
{{- fail (printf "envoy is a configuration %s %s and %s.enabled is %t: set it to %t, or render another one" (ternary "without" "with" $said) $key $key $said (not $said)) -}}
{{- end -}}
{{- end -}}
{{- $own -}}
{{- else -}}
{{- $name := printf "files/envoy%s%s.yaml" (ternary "-tls" "" .Values.tls.enabled) (ternary "-budgets" "" .Values.budgets.enabled) -}}
{{- $file := .Files.Get $name -}}
{{- if eq .Values.budgets.whenUnavailable "refuse" -}}
{{- $file = replace "failure_mode_deny: false" "failure_mode_deny: true" $file -}}
{{- end -}}
{{- $file -}}
{{- end -}}
{{- end }}

{{- define "servicePort" -}}
{{- .Values.service.port | default (ternary 443 80 .Values.tls.enabled) -}}
{{- end }}

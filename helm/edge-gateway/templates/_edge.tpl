{{/* The Envoy configuration: `envoy` if set, otherwise the chart's template. It contains no credential. */}}
{{- define "edge-gateway.envoy" -}}
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
{{- $file := tpl (.Files.Get "files/envoy.yaml.tpl") . -}}
{{- if eq .Values.budgets.whenUnavailable "refuse" -}}
{{- $file = replace "failure_mode_deny: false" "failure_mode_deny: true" $file -}}
{{- end -}}
{{- $file = replace "address: 0.0.0.0" (printf "address: %s" (include "edge-gateway.listen" . | quote)) $file -}}
{{- if eq (include "edge-gateway.listen" .) "::" -}}
{{- $file = replace "ipv4_compat: false" "ipv4_compat: true" $file -}}
{{- end -}}
{{- $heap := mulf 0.7 (include "edge-gateway.bytes" (include "edge-gateway.memoryLimit" .) | float64) | int64 -}}
{{- regexReplaceAll "max_heap_size_bytes: [0-9]+" $file (printf "max_heap_size_bytes: %d" $heap) -}}
{{- end -}}
{{- end }}

{{/* The edge's settings file, which the pod renders: files/settings.yaml, overridden by the chart's values and then by
     `settings`. JSON, because Helm's YAML writes large integers with an exponent. */}}
{{- define "edge-gateway.settings" -}}
{{- if .Values.envoy -}}
{{- fail "settings and envoy are both set: settings do not apply to a custom Envoy configuration; remove one of them" -}}
{{- end -}}
{{- if and .Values.settings.budgets (not .Values.budgets.enabled) -}}
{{- fail "settings.budgets is set and budgets.enabled is false: set budgets.enabled to true" -}}
{{- end -}}
{{- $host := include "edge-gateway.listen" . -}}
{{- $heap := mulf 0.7 (include "edge-gateway.bytes" (include "edge-gateway.memoryLimit" .) | float64) | int64 -}}
{{- $own := dict "listen" (dict "host" $host "port" 8080) "telemetry" (dict "host" $host "port" 9902) "bounds" (dict "max_heap_bytes" $heap) -}}
{{- if .Values.tls.enabled -}}
{{- $own = set $own "tls" (dict "certificate_file" "/etc/edge-tls/tls.crt" "private_key_file" "/etc/edge-tls/tls.key") -}}
{{- end -}}
{{- if .Values.budgets.enabled -}}
{{- $own = set $own "budgets" (dict "host" "rate-limit-service.llm.svc.cluster.local" "when_unavailable" .Values.budgets.whenUnavailable) -}}
{{- end -}}
{{- mergeOverwrite (.Files.Get "files/settings.yaml" | fromYaml) $own (deepCopy (.Values.settings | default dict)) | toPrettyJson -}}
{{- end }}

{{/* The configuration that the pod reads at startup. */}}
{{- define "edge-gateway.configuration" -}}
{{- if .Values.settings }}{{ include "edge-gateway.settings" . }}{{ else }}{{ include "edge-gateway.envoy" . }}{{ end -}}
{{- end }}

{{- define "edge-gateway.memoryLimit" -}}
{{- required "resources.limits.memory is empty: Envoy's heap limit is computed from it" (.Values.resources.limits).memory -}}
{{- end }}

{{/* Envoy sheds load at its heap limit. Above 70 % of the memory limit, the kernel could kill Envoy first. */}}
{{- define "edge-gateway.checkHeap" -}}
{{- $heap := regexFind "max_heap_size_bytes: [0-9]+" (.Values.envoy | default "") | trimPrefix "max_heap_size_bytes: " | int64 -}}
{{- with (.Values.resources.limits).memory -}}
{{- $limit := include "edge-gateway.bytes" . | int64 -}}
{{- if gt (mul $heap 10) (mul $limit 7) -}}
{{- fail (printf "envoy has max_heap_size_bytes %d, more than 70 %% of resources.limits.memory %s: the kernel would kill Envoy before it sheds load; raise the limit or lower bounds.max_heap_bytes" $heap $.Values.resources.limits.memory) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "edge-gateway.servicePort" -}}
{{- .Values.service.port | default (ternary 443 80 .Values.tls.enabled) -}}
{{- end }}

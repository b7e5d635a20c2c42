{{/* What is read once, at the start; the limits beside it are read again when they change. */}}
{{- define "rate-limit-service.budgets" -}}
{{- dict "port" 8081 "metrics_port" 8082 "redis_url" .Values.redis.url "reservation_seconds" .Values.reservationSeconds | toYaml -}}
{{- end }}

{{/* Settings that the service reads only at startup. It reloads the limits when they change. */}}
{{- define "rate-limit-service.budgets" -}}
{{- dict "port" 8081 "metrics_port" 8082 "redis_url" .Values.redis.url "reservation_seconds" .Values.reservationSeconds | toYaml -}}
{{- end }}

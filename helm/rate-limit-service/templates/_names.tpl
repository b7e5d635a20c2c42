{{/* Object names do not depend on the release: other charts address this one by its Service. */}}
{{- define "name" -}}{{ .Chart.Name }}{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: {{ include "name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: llm-platform
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* A digest wins over a tag: it is what was tested. The environment's registry holds our own images and no others. */}}
{{- define "image" -}}
{{- $image := .Values.image -}}
{{- $registry := (.Values.global).registry | default "" -}}
{{- $repository := $image.repository -}}
{{- if and $registry (hasPrefix "llm-platform/" $repository) -}}
{{- $repository = printf "%s/%s" $registry (trimPrefix "llm-platform/" $repository) -}}
{{- else if $image.registry -}}
{{- $repository = printf "%s/%s" $image.registry $repository -}}
{{- end -}}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* Restricted by the pod security standard, and nothing may be written but what is mounted. */}}
{{- define "podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
fsGroup: {{ .Values.runAsUser }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "placement" -}}
{{- $placement := (((.Values.global).placement).system) | default dict -}}
{{- with .Values.nodeSelector | default $placement.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations | default $placement.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What asks in `helm test`, where the chart's own image has no shell. */}}
{{- define "testImage" -}}
{{- include "image" (dict "Values" (dict "global" .Values.global "image" .Values.testImage) "Chart" .Chart) -}}
{{- end }}

{{/* The model as the agent's renderer gave it: argv, env, model. */}}
{{- define "rendered" -}}
{{- if .Values.rendered -}}
{{- range $key := list "argv" "env" "model" }}
{{- if not (hasKey $.Values.rendered $key) }}
{{- fail (printf "rendered.%s is missing: render it with `backend-agent engine-command --model-file FILE --model-path /models/NAME --host 0.0.0.0 --port 8000`" $key) }}
{{- end }}
{{- end }}
{{- toJson .Values.rendered -}}
{{- else -}}
{{- $known := list -}}
{{- range $path, $_ := .Files.Glob "files/models/*.json" -}}
{{- $known = append $known (base $path | trimSuffix ".json") -}}
{{- end -}}
{{- if not .Values.model -}}
{{- fail (printf "model is empty: choose one of %s, or give a model file of your own as rendered" (join ", " $known)) -}}
{{- end -}}
{{- if not (has .Values.model $known) -}}
{{- fail (printf "model %q is not a model file (known: %s)" .Values.model (join ", " $known)) -}}
{{- end -}}
{{- .Files.Get (printf "files/models/%s.json" .Values.model) -}}
{{- end -}}
{{- end }}

{{/* The name of Service and Deployment: a DNS label, so without the dots of a version. */}}
{{- define "backend" -}}
{{- $model := (include "rendered" . | fromJson).model -}}
{{- $name := .Values.backend | default ($model.name | lower | replace "." "" | replace "_" "-") -}}
{{- if or (gt (len $name) 54) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "backend %q is not a Service name: lower-case letters, digits and -, at most 54 characters" $name) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* What the pod needs: the model file's figures, or the values' where they differ. */}}
{{- define "needs" -}}
{{- $model := (include "rendered" . | fromJson).model -}}
{{- $needs := $model.needs -}}
{{- $gpus := ternary $needs.gpus .Values.needs.gpus (kindIs "invalid" .Values.needs.gpus) | int -}}
{{- if and (gt (int $needs.gpus) 0) (lt $gpus (int $needs.gpus)) -}}
{{- fail (printf "needs.gpus %d: the model %s needs %d; a CPU cannot run it" $gpus $model.name (int $needs.gpus)) -}}
{{- end -}}
{{- if and (eq (int $needs.gpus) 0) (gt $gpus 0) -}}
{{- fail (printf "needs.gpus %d: the model file of %s is for a CPU; give one for a GPU" $gpus $model.name) -}}
{{- end -}}
{{- dict "gpus" $gpus
    "cpus" (.Values.needs.cpus | default $needs.cpus)
    "memory" (.Values.needs.memoryGib | default $needs.memory_gib)
    "shm" (.Values.needs.shmGib | default $needs.shm_gib)
    "disk" $needs.disk_gib | toJson -}}
{{- end }}

{{- define "agentImage" -}}
{{- include "image" (dict "Values" (dict "global" .Values.global "image" (merge (dict "registry" .Values.image.registry) .Values.agentImage)) "Chart" .Chart) -}}
{{- end }}

{{/* Where the weights come from: said, else the environment's bucket, else the hub. */}}
{{- define "source" -}}
{{- $model := (include "rendered" . | fromJson).model -}}
{{- $bucket := (((.Values.global).buckets).models) | default "" -}}
{{- if .Values.weights.source -}}
{{- .Values.weights.source -}}
{{- else if $bucket -}}
s3://{{ $bucket }}/{{ $model.name }}
{{- else if $model.repository -}}
hf://{{ $model.repository }}{{ with $model.revision }}@{{ . }}{{ end }}
{{- else -}}
{{- fail (printf "weights.source is empty and the model file of %s names no repository: give s3://bucket/prefix, hf://owner/name or a folder" $model.name) -}}
{{- end -}}
{{- end }}

{{- define "engineLabels" -}}
{{ include "labels" . }}
app.kubernetes.io/component: inference-engine
llm-platform/backend: {{ include "backend" . }}
{{- end }}

{{/* The engine's command line: the model file's, split over as many GPUs as the pod gets, and where spans go. */}}
{{- define "engineCommand" -}}
{{- $rendered := include "rendered" . | fromJson -}}
{{- $argv := $rendered.argv -}}
{{- $gpus := (include "needs" . | fromJson).gpus | int -}}
{{- if gt $gpus (int $rendered.model.needs.gpus) -}}
{{- /* The last one counts: vLLM's arguments are argparse's. */ -}}
{{- $argv = concat $argv (list "--tensor-parallel-size" (toString $gpus)) -}}
{{- end -}}
{{- with .Values.tracing.endpoint -}}
{{- if has "--otlp-traces-endpoint" $argv -}}
{{- fail "tracing.endpoint is set and the model file's arguments name --otlp-traces-endpoint too: leave one of them out" -}}
{{- end -}}
{{- $argv = concat $argv (list "--otlp-traces-endpoint" .) -}}
{{- end -}}
{{- toYaml $argv -}}
{{- end }}

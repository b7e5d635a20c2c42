{{/* The output of `backend-agent engine-command` for the model: argv, env, model. */}}
{{- define "inference-backend.rendered" -}}
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
{{- /* `helm lint` continues after `fail` and then needs a model: use the first one. */ -}}
{{- $model := .Values.model -}}
{{- if not $model -}}
{{- $model = first $known -}}
{{- fail (printf "model is empty: choose one of %s, or give a model file of your own as rendered" (join ", " $known)) -}}
{{- else if not (has $model $known) -}}
{{- $model = first $known -}}
{{- fail (printf "model %q is not a model file (known: %s)" .Values.model (join ", " $known)) -}}
{{- end -}}
{{- .Files.Get (printf "files/models/%s.json" $model) -}}
{{- end -}}
{{- end }}

{{/* The name of the Service and Deployment: a DNS label, so without a version's dots. */}}
{{- define "inference-backend.backend" -}}
{{- $model := (include "inference-backend.rendered" . | fromJson).model -}}
{{- $name := .Values.fullnameOverride | default .Values.backend | default ($model.name | lower | replace "." "" | replace "_" "-") -}}
{{- if or (gt (len $name) 54) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "backend %q is not a Service name: lower-case letters, digits and -, at most 54 characters" $name) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* The pod's resource needs: the model file's, overridden by `needs`. */}}
{{- define "inference-backend.needs" -}}
{{- $model := (include "inference-backend.rendered" . | fromJson).model -}}
{{- $needs := $model.needs -}}
{{- $gpus := ternary $needs.gpus .Values.needs.gpus (kindIs "invalid" .Values.needs.gpus) | int -}}
{{- if and (gt (int $needs.gpus) 0) (lt $gpus (int $needs.gpus)) -}}
{{- fail (printf "needs.gpus %d: the model %s needs %d; a CPU cannot run it" $gpus $model.name (int $needs.gpus)) -}}
{{- end -}}
{{- if and (eq (int $needs.gpus) 0) (gt $gpus 0) -}}
{{- fail (printf "needs.gpus %d: the model file of %s is for a CPU; give one for a GPU" $gpus $model.name) -}}
{{- end -}}
{{- $offload := ($model.engine).kv_offload_gib | default 0 | float64 -}}
{{- $shm := .Values.needs.shmGib | default $needs.shm_gib | float64 -}}
{{- if and (gt $gpus 0) (gt $offload 0.0) (lt $shm (addf $offload 1)) -}}
{{- fail (printf "needs.shmGib %v is less than the KV offload of %v GiB + 1: vLLM keeps the offload in /dev/shm and refuses to start; set it to %v or more" $shm $offload (addf $offload 1)) -}}
{{- end -}}
{{- $memory := .Values.needs.memoryGib | default $needs.memory_gib | float64 -}}
{{- dict "gpus" $gpus
    "cpus" (.Values.needs.cpus | default $needs.cpus)
    "memoryMi" (addf $memory $shm | mulf 1024 | ceil | int)
    "shmMi" (mulf $shm 1024 | ceil | int)
    "disk" $needs.disk_gib | toJson -}}
{{- end }}

{{- define "inference-backend.agentImage" -}}
{{- include "inference-backend.image" (dict "Values" (dict "global" .Values.global "image" (merge (dict "registry" (.Values.agentImage.registry | default .Values.image.registry)) .Values.agentImage)) "Chart" .Chart) -}}
{{- end }}

{{- define "inference-backend.agentPullPolicy" -}}
{{- include "inference-backend.pullPolicy" (dict "Values" (dict "global" .Values.global "image" (merge (dict "registry" (.Values.agentImage.registry | default .Values.image.registry) "pullPolicy" .Values.image.pullPolicy) .Values.agentImage))) -}}
{{- end }}

{{/* The source of the weights: weights.source, else the environment's bucket, else Hugging Face. */}}
{{- define "inference-backend.source" -}}
{{- $model := (include "inference-backend.rendered" . | fromJson).model -}}
{{- $bucket := (((.Values.global).buckets).models) | default "" -}}
{{- if .Values.weights.source -}}
{{- .Values.weights.source -}}
{{- else if $bucket -}}
s3://{{ $bucket }}/{{ $model.name }}
{{- else if and $model.repository $model.revision -}}
hf://{{ $model.repository }}@{{ $model.revision }}
{{- else if $model.repository -}}
{{- fail (printf "weights.source is empty and the model file of %s names no revision: the hub's main branch can change between two pods. Give hf://%s@COMMIT with the commit that its page at the hub shows, or s3://bucket/prefix" $model.name $model.repository) -}}
{{- else -}}
{{- fail (printf "weights.source is empty and the model file of %s names no repository: give s3://bucket/prefix, hf://owner/name or a folder" $model.name) -}}
{{- end -}}
{{- end }}

{{- define "inference-backend.engineLabels" -}}
{{ include "inference-backend.labels" . }}
app.kubernetes.io/component: inference-engine
llm-platform/backend: {{ include "inference-backend.backend" . }}
{{- end }}

{{- define "inference-backend.podLabels" -}}
{{ include "inference-backend.selector" . }}
app.kubernetes.io/component: inference-engine
llm-platform/backend: {{ include "inference-backend.backend" . }}
{{- end }}

{{/* The engine's command line: the model file's, plus --tensor-parallel-size for the pod's GPUs and the span endpoint. */}}
{{- define "inference-backend.engineCommand" -}}
{{- $rendered := include "inference-backend.rendered" . | fromJson -}}
{{- $argv := $rendered.argv -}}
{{- $gpus := (include "inference-backend.needs" . | fromJson).gpus | int -}}
{{- if gt $gpus (int $rendered.model.needs.gpus) -}}
{{- /* vLLM uses argparse, so the last occurrence of an argument applies. */ -}}
{{- $argv = concat $argv (list "--tensor-parallel-size" (toString $gpus)) -}}
{{- end -}}
{{- with (.Values.global).listenAddress -}}
{{- $address := . -}}
{{- $words := list -}}
{{- range $argv -}}{{- $words = append $words (ternary $address . (eq (toString .) "0.0.0.0")) -}}{{- end -}}
{{- $argv = $words -}}
{{- end -}}
{{- with .Values.tracing.endpoint -}}
{{- if has "--otlp-traces-endpoint" $argv -}}
{{- fail "tracing.endpoint is set and the model file's arguments name --otlp-traces-endpoint too: remove one of them" -}}
{{- end -}}
{{- $argv = concat $argv (list "--otlp-traces-endpoint" .) -}}
{{- end -}}
{{- toYaml (concat $argv (.Values.extraArgs | default list)) -}}
{{- end }}

{{/* The service account's name, different for each release. */}}
{{- define "inference-backend.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "inference-backend.backend" .) -}}
{{- end }}

{{/* Whether the pod fetches weights; the engine simulator has none. */}}
{{- define "inference-backend.hasWeights" -}}
{{- if ne (include "inference-backend.source" .) "none" }}true{{ end -}}
{{- end }}

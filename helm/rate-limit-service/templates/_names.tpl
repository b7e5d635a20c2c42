{{/* The component's name. Other charts, network policies and scrape jobs select pods by it. The prefix llm- only
     distinguishes a chart from a well-known chart of the same name. */}}
{{- define "rate-limit-service.name" -}}{{ .Values.nameOverride | default (trimPrefix "llm-" .Chart.Name) }}{{- end }}

{{/* The name of the release's objects. It does not contain the release name, because other charts address the Service by
     a fixed name. A second release in the same namespace needs a fullnameOverride. */}}
{{- define "rate-limit-service.fullname" -}}{{ .Values.fullnameOverride | default (include "rate-limit-service.name" .) }}{{- end }}

{{- define "rate-limit-service.namespace" -}}{{ .Values.namespaceOverride | default .Release.Namespace }}{{- end }}

{{/* Quoted, because a name such as 2024 or 1e3 is valid, and YAML reads it as a number. */}}
{{- define "rate-limit-service.selector" -}}
app.kubernetes.io/name: {{ include "rate-limit-service.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* A version may have build metadata (1.2.3+build.4), a label may have no plus sign. */}}
{{- define "rate-limit-service.labels" -}}
{{ include "rate-limit-service.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/part-of: llm-platform
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod template, without a version: a new chart version must not restart unchanged pods.
     `selector`: the workload's selector labels. `checksums`: annotations whose change restarts the pods. */}}
{{- define "rate-limit-service.podMetadata" -}}
{{- $root := .root -}}
labels:
  {{- .selector | nindent 2 }}
  {{- with mergeOverwrite (deepCopy ($root.Values.commonLabels | default dict)) ($root.Values.podLabels | default dict) }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with mergeOverwrite (deepCopy ($root.Values.podAnnotations | default dict)) (.checksums | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A digest overrides a tag. global.registry holds the llm-platform/ images; global.imageRegistry mirrors all others. */}}
{{- define "rate-limit-service.image" -}}
{{- $image := .Values.image -}}
{{- $global := .Values.global | default dict -}}
{{- $repository := $image.repository -}}
{{- if and $global.registry (hasPrefix "llm-platform/" $repository) -}}
{{- $repository = printf "%s/%s" $global.registry (trimPrefix "llm-platform/" $repository) -}}
{{- else -}}
{{- if $image.registry -}}
{{- $repository = printf "%s/%s" $image.registry $repository -}}
{{- end -}}
{{- with $global.imageRegistry -}}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^[^/]*[.:][^/]*/" $repository "") -}}
{{- end -}}
{{- end -}}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $image.tag | default (.Chart.AppVersion | replace "+" "_") }}{{ end -}}
{{- end }}

{{/* Never for an llm-platform/ image without a registry: a node would otherwise pull that name from Docker Hub. */}}
{{- define "rate-limit-service.pullPolicy" -}}
{{- $image := .Values.image -}}
{{- $registry := or $image.registry (.Values.global).registry (.Values.global).imageRegistry -}}
{{- $local := and (hasPrefix "llm-platform/" $image.repository) (not $registry) -}}
{{- $image.pullPolicy | default (ternary "Never" "IfNotPresent" $local) -}}
{{- end }}

{{/* Many charts take plain names in global.imagePullSecrets, so both forms are accepted. */}}
{{- define "rate-limit-service.pullSecrets" -}}
{{- with concat (.Values.imagePullSecrets | default list) ((.Values.global).imagePullSecrets | default list) -}}
imagePullSecrets:
{{- range . }}
  - {{ kindIs "string" . | ternary (dict "name" .) . | toJson }}
{{- end }}
{{- end -}}
{{- end }}

{{/* Meets the restricted pod security standard. */}}
{{- define "rate-limit-service.podSecurity" -}}
{{- $own := dict "runAsNonRoot" true "runAsUser" .Values.runAsUser "runAsGroup" .Values.runAsUser "fsGroup" .Values.runAsUser "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $own (deepCopy (.Values.podSecurityContext | default dict)) | toYaml -}}
{{- end }}

{{/* Makes only mounted volumes writable. */}}
{{- define "rate-limit-service.containerSecurity" -}}
{{- $own := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- mergeOverwrite $own (deepCopy (.Values.securityContext | default dict)) | toYaml -}}
{{- end }}

{{/* Tolerations of GPU nodes. The taint of NVIDIA's nodes is `nvidia.com/gpu` whatever the name of their resource (MIG, shared
     or time-sliced GPUs), and clusters give it different values. */}}
{{- define "rate-limit-service.gpuTolerations" -}}
{{- $resource := .Values.gpuResource -}}
- key: {{ ternary "nvidia.com/gpu" $resource (hasPrefix "nvidia.com/" $resource) }}
  operator: Exists
  effect: NoSchedule
{{- end }}

{{/* The fields of a pod spec that all charts share. `root`: the chart. `host`: whenUnsatisfiable of the spread over hosts
     (omitted: no spread). `gpu`: whether the pod runs on GPU nodes. */}}
{{- define "rate-limit-service.podSpec" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $placement := get ((($values.global).placement) | default dict) (ternary "gpu" "system" (.gpu | default false)) | default dict -}}
{{- $selector := $values.nodeSelector | default $placement.nodeSelector -}}
{{- $tolerations := $values.tolerations | default $placement.tolerations -}}
{{- if .gpu -}}
{{- $selector = $selector | default (dict "llm-platform/pool" "gpu") -}}
{{- $tolerations = $tolerations | default (include "rate-limit-service.gpuTolerations" $root | fromYamlArray) -}}
{{- end -}}
{{- /* With service links, a Service named vllm would set VLLM_PORT, which vLLM reads as a setting. */ -}}
enableServiceLinks: false
{{- with include "rate-limit-service.pullSecrets" $root }}
{{ . }}
{{- end }}
{{- with $selector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName | default .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- if $values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else if .host }}
topologySpreadConstraints: {{- include "rate-limit-service.spread" . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Spreads pods over zones if possible, and over hosts as `host` requires. matchLabelKeys counts only pods of one
     revision; otherwise old pods in a rolling update could hide new pods that share a host. nodeTaintsPolicy excludes
     tainted nodes (cordoned, unreachable), so a drain leaves no pod pending. */}}
{{- define "rate-limit-service.spread" -}}
{{- range $number, $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
{{- if $number }}{{ "\n" }}{{ end -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ ternary "ScheduleAnyway" $.host (gt $number 0) }}
  nodeTaintsPolicy: Honor
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels: {{- include "rate-limit-service.selector" $.root | nindent 6 }}
{{- end }}
{{- end }}

{{/* The listen address, by default all IPv4 addresses. A cluster without IPv4 sets global.listenAddress to "::". */}}
{{- define "rate-limit-service.listen" -}}{{ (.Values.global).listenAddress | default "0.0.0.0" }}{{- end }}

{{- define "rate-limit-service.ipFamilies" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A Service's spec except selector and ports. */}}
{{- define "rate-limit-service.serviceSpec" -}}
{{- $service := .Values.service -}}
type: {{ $service.type }}
{{- with $service.loadBalancerClass }}
loadBalancerClass: {{ . | quote }}
{{- end }}
{{- with $service.loadBalancerSourceRanges }}
loadBalancerSourceRanges: {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "rate-limit-service.ipFamilies" . }}
{{- end }}

{{- define "rate-limit-service.serviceAnnotations" -}}
{{- with .Values.service.annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The failureThreshold of a startup probe that allows startupSeconds, or `seconds` by default. */}}
{{- define "rate-limit-service.startupFailures" -}}
{{- div (add (.root.Values.startupSeconds | default .seconds) .period -1) .period -}}
{{- end }}

{{/* Refuses `option` on a cluster without the API `version`. Only a real cluster reports apiregistration.k8s.io, so
     `helm template` without --api-versions renders every custom resource. */}}
{{- define "rate-limit-service.requireApi" -}}
{{- $apis := .root.Capabilities.APIVersions -}}
{{- if and ($apis.Has "apiregistration.k8s.io/v1") (not ($apis.Has .version)) -}}
{{- fail (printf "%s needs the CRD %s, which this cluster does not have: %s" .option .version .remedy) -}}
{{- end -}}
{{- end }}

{{/* A ServiceMonitor for the Prometheus operator. `endpoints`: its endpoints without their interval. */}}
{{- define "rate-limit-service.serviceMonitor" -}}
{{- $root := .root -}}
{{- include "rate-limit-service.requireApi" (dict "root" $root "option" "serviceMonitor.enabled" "version" "monitoring.coreos.com/v1" "remedy" "install the Prometheus operator first, or disable this option (Prometheus then finds pods by label)") -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ .name | default (include "rate-limit-service.fullname" $root) }}
  namespace: {{ include "rate-limit-service.namespace" $root | quote }}
  labels: {{- mergeOverwrite (include "rate-limit-service.labels" $root | fromYaml) ($root.Values.serviceMonitor.labels | default dict) | toYaml | nindent 4 }}
spec:
  selector:
    matchLabels: {{- .selector | default (include "rate-limit-service.selector" $root) | nindent 6 }}
  endpoints:
    {{- range .endpoints }}
    - {{- merge (dict "interval" $root.Values.serviceMonitor.interval) . | toYaml | nindent 6 }}
    {{- end }}
{{- end }}

{{/* The image of `helm test`, for charts whose own image has no shell. */}}
{{- define "rate-limit-service.testImage" -}}
{{- include "rate-limit-service.image" (dict "Values" (dict "global" .Values.global "image" .Values.testImage) "Chart" .Chart) -}}
{{- end }}

{{/* Bytes of a memory quantity with the unit Mi or Gi. */}}
{{- define "rate-limit-service.bytes" -}}
{{- $text := . | toString -}}
{{- if hasSuffix "Gi" $text -}}{{ mulf (trimSuffix "Gi" $text | float64) 1073741824 | int64 }}
{{- else if hasSuffix "Mi" $text -}}{{ mulf (trimSuffix "Mi" $text | float64) 1048576 | int64 }}
{{- else -}}{{ fail (printf "memory %q has an unsupported unit: use Mi or Gi" $text) }}
{{- end -}}
{{- end }}

{{/* A test that requests a URL until it succeeds. Some clusters apply network policies shortly after a pod starts and
     refuse the first connection. */}}
{{- define "rate-limit-service.requestUntilAnswered" -}}
- sh
- -c
- |
  end=$(($(date +%s) + ${ASK_SECONDS:-30}))
  until seen=$(wget -q -T 5 -O - "$1" 2>&1); do
    if [ "$(date +%s)" -ge "$end" ]; then
      # Without -q: only then does every wget print its error.
      echo "$1: no answer within ${ASK_SECONDS:-30} s, last: $(wget -T 5 -O /dev/null "$1" 2>&1)" >&2
      exit 1
    fi
    sleep 1
  done
  echo "$seen"
- ask
{{- end }}

{{/* The same in Python: calls a function `check` until it no longer raises. */}}
{{- define "rate-limit-service.checkUntilRight" -}}
import os, time
seconds = float(os.environ.get("ASK_SECONDS", "30"))
end = time.monotonic() + seconds
while True:
    try:
        check()
        break
    except Exception as error:
        if time.monotonic() >= end:
            raise SystemExit(f"no right answer within {seconds:.0f} s, last: {type(error).__name__}: {error}")
        time.sleep(1)
{{- end }}

{{/* An autoscaler that alone sets a Deployment's number of pods. The Deployment never sets replicas: if Helm, Argo CD or
     Flux removes that field later, Kubernetes resets it to 1. If they keep the field, they overwrite the autoscaler's
     number. An autoscaler restores its minimum without metrics, so a fixed number needs no metrics server. `name`: the
     Deployment. `least`, `most`: the bounds. `cpuPercent`: the target utilisation. */}}
{{- define "rate-limit-service.autoscaler" -}}
{{- if gt (int .least) (int .most) -}}
{{- fail (printf "autoscaling.minReplicas %d is more than autoscaling.maxReplicas %d" (int .least) (int .most)) -}}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .name }}
  namespace: {{ include "rate-limit-service.namespace" .root | quote }}
  labels: {{- .labels | nindent 4 }}
  # An upgrade that replaces this by a ScaledObject, or back, briefly has both, which KEDA's webhook would refuse.
  annotations: {validations.keda.sh/hpa-ownership: "false"}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ .name }}}
  minReplicas: {{ .least }}
  maxReplicas: {{ .most }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ .cpuPercent }}}}
{{- end }}

{{/* A client of Redis: the checks of its values, the volume with its secrets, and the way to Redis through a network policy. */}}
{{- define "rate-limit-service.checkRedis" -}}
{{- with .Values.redis }}
{{- if and .caSecret (not (hasPrefix "rediss://" .url)) -}}
{{- fail (printf "redis.caSecret has no effect without TLS: begin redis.url (%s) with rediss://, or remove redis.caSecret" .url) -}}
{{- end }}
{{- end }}
{{- end }}
{{- define "rate-limit-service.redisSecret" -}}
{{- with .Values.redis -}}
{{- if .caSecret -}}
projected:
  sources:
    - secret: {name: {{ .passwordSecret | quote }}, items: [{key: password, path: password}]}
    - secret: {name: {{ .caSecret | quote }}, items: [{key: ca.crt, path: ca.crt}]}
{{- else -}}
secret:
  secretName: {{ .passwordSecret | quote }}
  items: [{key: password, path: password}]
{{- end -}}
{{- end -}}
{{- end }}
{{- define "rate-limit-service.redisEgress" -}}
{{- $host := regexReplaceAll "^rediss?://([^/?]*).*$" .Values.redis.url "${1}" -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" | default "6379" -}}
{{- $name := trimSuffix (printf ":%s" $port) $host -}}
{{- if or (not (contains "." $name)) (contains ".svc" $name) -}}
- to:
    - podSelector:
        matchLabels: {app.kubernetes.io/name: redis}
  ports: [{port: {{ $port }}}]
{{- else -}}
- ports: [{port: {{ $port }}}]   # a Redis outside the cluster, whose address a policy cannot name
{{- end -}}
{{- end }}

{{/* An Ingress to the Service, if enabled. `root`: the chart. `port`: the name of the Service's port. */}}
{{- define "rate-limit-service.ingress" -}}
{{- $root := .root -}}
{{- $port := .port -}}
{{- with $root.Values.ingress -}}
{{- if .enabled -}}
{{- if not .hosts -}}
{{- fail "ingress.enabled and ingress.hosts is empty: name a host, for example [{host: llm.example.com, paths: [{path: /, pathType: Prefix}]}]" -}}
{{- end -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ include "rate-limit-service.fullname" $root }}
  namespace: {{ include "rate-limit-service.namespace" $root | quote }}
  labels: {{- include "rate-limit-service.labels" $root | nindent 4 }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .tls }}
  tls: {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    {{- range .hosts }}
    - host: {{ .host | quote }}
      http:
        paths:
          {{- range .paths | default (list dict) }}
          - path: {{ .path | default "/" }}
            pathType: {{ .pathType | default "Prefix" }}
            backend: {service: {name: {{ include "rate-limit-service.fullname" $root }}, port: {name: {{ $port }}}}}
          {{- end }}
    {{- end }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* An HTTPRoute to the Service, if enabled. `root`: the chart. `port`: the number of the Service's port. */}}
{{- define "rate-limit-service.httpRoute" -}}
{{- $root := .root -}}
{{- $port := .port -}}
{{- with $root.Values.httpRoute -}}
{{- if .enabled -}}
{{- include "rate-limit-service.requireApi" (dict "root" $root "option" "httpRoute.enabled" "version" "gateway.networking.k8s.io/v1" "remedy" "install the Gateway API first, or use ingress") -}}
{{- if not .parentRefs -}}
{{- fail "httpRoute.enabled and httpRoute.parentRefs is empty: name the Gateway, for example [{name: gateway, namespace: gateways}]" -}}
{{- end -}}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ include "rate-limit-service.fullname" $root }}
  namespace: {{ include "rate-limit-service.namespace" $root | quote }}
  labels: {{- include "rate-limit-service.labels" $root | nindent 4 }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  parentRefs: {{- toYaml .parentRefs | nindent 4 }}
  {{- with .hostnames }}
  hostnames: {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    - backendRefs:
        - {name: {{ include "rate-limit-service.fullname" $root }}, port: {{ $port }}}
      timeouts: {request: 0s}   # no limit: the services enforce their own timeouts
{{- end -}}
{{- end -}}
{{- end }}

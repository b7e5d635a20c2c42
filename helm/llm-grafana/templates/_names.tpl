{{/* What other charts, network policies and scrape jobs select pods by: the component's name. The prefix llm- only keeps
     a chart apart from a famous one of the same name. */}}
{{- define "llm-grafana.name" -}}{{ .Values.nameOverride | default (trimPrefix "llm-" .Chart.Name) }}{{- end }}

{{/* The name of this release's objects. It does not depend on the release's name, because other charts address this one
     by its Service. Of two releases in one namespace, one needs a fullnameOverride. */}}
{{- define "llm-grafana.fullname" -}}{{ .Values.fullnameOverride | default (include "llm-grafana.name" .) }}{{- end }}

{{- define "llm-grafana.namespace" -}}{{ .Values.namespaceOverride | default .Release.Namespace }}{{- end }}

{{- define "llm-grafana.selector" -}}
app.kubernetes.io/name: {{ include "llm-grafana.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "llm-grafana.labels" -}}
{{ include "llm-grafana.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: llm-platform
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod template. They carry no version: a chart's release must not restart pods whose
     content is the same. `selector` are the labels the workload selects, `checksums` what a restart depends on. */}}
{{- define "llm-grafana.podMetadata" -}}
{{- $root := .root -}}
labels:
  {{- .selector | nindent 2 }}
  {{- with mergeOverwrite (deepCopy $root.Values.commonLabels) $root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with mergeOverwrite (deepCopy $root.Values.podAnnotations) (.checksums | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A digest wins over a tag. global.registry holds our own images, global.imageRegistry mirrors all others. */}}
{{- define "llm-grafana.image" -}}
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
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* Never where an image of ours has no registry: a node without it would ask Docker Hub, where it is not ours. */}}
{{- define "llm-grafana.pullPolicy" -}}
{{- $image := .Values.image -}}
{{- $registry := or $image.registry (.Values.global).registry (.Values.global).imageRegistry -}}
{{- $local := and (hasPrefix "llm-platform/" $image.repository) (not $registry) -}}
{{- $image.pullPolicy | default (ternary "Never" "IfNotPresent" $local) -}}
{{- end }}

{{- define "llm-grafana.pullSecrets" -}}
{{- with concat .Values.imagePullSecrets ((.Values.global).imagePullSecrets | default list) -}}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{/* Restricted by the pod security standard. */}}
{{- define "llm-grafana.podSecurity" -}}
{{- $own := dict "runAsNonRoot" true "runAsUser" .Values.runAsUser "runAsGroup" .Values.runAsUser "fsGroup" .Values.runAsUser "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $own (deepCopy .Values.podSecurityContext) | toYaml -}}
{{- end }}

{{/* Only mounted volumes are writable. */}}
{{- define "llm-grafana.containerSecurity" -}}
{{- $own := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- mergeOverwrite $own (deepCopy .Values.securityContext) | toYaml -}}
{{- end }}

{{/* Where the pod runs and how it starts: everything of a pod's spec that all charts share. `root` is the chart,
     `host` how replicas spread over hosts (none: they do not), `gpu` whether it runs on GPU nodes. */}}
{{- define "llm-grafana.podSpec" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $placement := get ((($values.global).placement) | default dict) (ternary "gpu" "system" (.gpu | default false)) | default dict -}}
{{- $selector := $values.nodeSelector | default $placement.nodeSelector -}}
{{- $tolerations := $values.tolerations | default $placement.tolerations -}}
{{- if .gpu -}}
{{- $selector = $selector | default (dict "llm-platform/pool" "gpu") -}}
{{- $tolerations = $tolerations | default (list (dict "key" $values.gpuResource "operator" "Equal" "value" "present" "effect" "NoSchedule")) -}}
{{- end -}}
{{- /* Without this a Service called vllm would set VLLM_PORT, which the engine reads as a setting of its own. */ -}}
enableServiceLinks: false
{{- with include "llm-grafana.pullSecrets" $root }}
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
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if $values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else if .host }}
topologySpreadConstraints: {{- include "llm-grafana.spread" . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Spread over zones where it can be, and over hosts as `host` requires. matchLabelKeys counts pods of one revision
     only: otherwise the old pods of a rolling update hide that the new ones stand together. A node with a taint
     (cordoned, unreachable) is left out, so a drain or a cluster of one node leaves no pod pending. */}}
{{- define "llm-grafana.spread" -}}
{{- range $number, $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
{{- if $number }}{{ "\n" }}{{ end -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ ternary "ScheduleAnyway" $.host (gt $number 0) }}
  nodeTaintsPolicy: Honor
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels: {{- include "llm-grafana.selector" $.root | nindent 6 }}
{{- end }}
{{- end }}

{{/* Where a program listens: every address. On a cluster without IPv4 global.listenAddress is "::". */}}
{{- define "llm-grafana.listen" -}}{{ (.Values.global).listenAddress | default "0.0.0.0" }}{{- end }}

{{- define "llm-grafana.ipFamilies" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* How clients reach a Service: everything of its spec but selector and ports. */}}
{{- define "llm-grafana.serviceSpec" -}}
{{- $service := .Values.service -}}
type: {{ $service.type }}
{{- with $service.loadBalancerClass }}
loadBalancerClass: {{ . }}
{{- end }}
{{- with $service.loadBalancerSourceRanges }}
loadBalancerSourceRanges: {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "llm-grafana.ipFamilies" . }}
{{- end }}

{{- define "llm-grafana.serviceAnnotations" -}}
{{- with .Values.service.annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Failures of a startup probe until startupSeconds, or else `seconds`, are over. */}}
{{- define "llm-grafana.startupFailures" -}}
{{- div (add (.root.Values.startupSeconds | default .seconds) .period -1) .period -}}
{{- end }}

{{/* Refuse `option` on a cluster without the API `version`. Only a cluster has apiregistration.k8s.io: `helm template`
     without --api-versions knows no custom resource and renders all. */}}
{{- define "llm-grafana.requireApi" -}}
{{- $apis := .root.Capabilities.APIVersions -}}
{{- if and ($apis.Has "apiregistration.k8s.io/v1") (not ($apis.Has .version)) -}}
{{- fail (printf "%s needs the CRD %s, which this cluster does not have: %s" .option .version .remedy) -}}
{{- end -}}
{{- end }}

{{/* For the Prometheus operator. `endpoints` are those of a ServiceMonitor, without their interval. */}}
{{- define "llm-grafana.serviceMonitor" -}}
{{- $root := .root -}}
{{- include "llm-grafana.requireApi" (dict "root" $root "option" "serviceMonitor.enabled" "version" "monitoring.coreos.com/v1" "remedy" "install the Prometheus operator first, or leave it off (pods are found by label)") -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ .name | default (include "llm-grafana.fullname" $root) }}
  namespace: {{ include "llm-grafana.namespace" $root }}
  labels: {{- mergeOverwrite (include "llm-grafana.labels" $root | fromYaml) $root.Values.serviceMonitor.labels | toYaml | nindent 4 }}
spec:
  selector:
    matchLabels: {{- .selector | default (include "llm-grafana.selector" $root) | nindent 6 }}
  endpoints:
    {{- range .endpoints }}
    - {{- merge (dict "interval" $root.Values.serviceMonitor.interval) . | toYaml | nindent 6 }}
    {{- end }}
{{- end }}

{{/* The image of `helm test`, where the chart's own has no shell. */}}
{{- define "llm-grafana.testImage" -}}
{{- include "llm-grafana.image" (dict "Values" (dict "global" .Values.global "image" .Values.testImage) "Chart" .Chart) -}}
{{- end }}

{{/* Bytes of a memory quantity with the unit Mi or Gi. */}}
{{- define "llm-grafana.bytes" -}}
{{- $text := . | toString -}}
{{- if hasSuffix "Gi" $text -}}{{ mulf (trimSuffix "Gi" $text | float64) 1073741824 | int64 }}
{{- else if hasSuffix "Mi" $text -}}{{ mulf (trimSuffix "Mi" $text | float64) 1048576 | int64 }}
{{- else -}}{{ fail (printf "memory %q has no unit of this chart: write it in Mi or Gi" $text) }}
{{- end -}}
{{- end }}

{{/* A test that requests a URL until it is answered. Where network policies are enforced a moment after a pod's start,
     the first connection is refused. */}}
{{- define "llm-grafana.requestUntilAnswered" -}}
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

{{/* The same in Python, around a function `check` that raises until the answer is right. */}}
{{- define "llm-grafana.checkUntilRight" -}}
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

{{/* The one owner of a Deployment's number of pods. The Deployment itself names none, also without autoscaling: a field
     that Helm, Argo CD or Flux applied once and then leaves out falls back to 1, and a field that it keeps resets what
     an autoscaler decided. Below the minimum the autoscaler acts without any metric, so a fixed number needs no metrics
     server. `name` is the Deployment, `least` and `most` its bounds, `cpuPercent` the target between them. */}}
{{- define "llm-grafana.autoscaler" -}}
{{- if gt (int .least) (int .most) -}}
{{- fail (printf "autoscaling.minReplicas %d is more than autoscaling.maxReplicas %d" (int .least) (int .most)) -}}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .name }}
  namespace: {{ include "llm-grafana.namespace" .root }}
  labels: {{- .labels | nindent 4 }}
  # While one upgrade replaces this by a ScaledObject, or back, both are there: KEDA's webhook would refuse that.
  annotations: {validations.keda.sh/hpa-ownership: "false"}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ .name }}}
  minReplicas: {{ .least }}
  maxReplicas: {{ .most }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ .cpuPercent }}}}
{{- end }}

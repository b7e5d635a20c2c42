{{/* Checks references between pools, rules and rule tests, which a schema cannot express. Reports all errors at once. */}}
{{- define "router-service.checkReferences" -}}
{{- $pools := .Values.config.pools -}}
{{- $known := keys $pools | sortAlpha | join ", " -}}
{{- $named := list -}}
{{- $problems := list -}}
{{- $served := dict -}}
{{- $owners := dict -}}
{{- range $name, $pool := $pools -}}
  {{- $at := printf "config.pools.%s" $name -}}
  {{- $aliases := $pool.aliases | default dict -}}
  {{- $_ := set $served $name (concat $pool.models (keys $aliases)) -}}
  {{- range $alias, $model := $aliases -}}
    {{- if not (or (has $model $pool.models) (has "*" $pool.models)) -}}
      {{- $problems = append $problems (printf "%s.aliases.%s: %q is not a model of this pool (known: %s)" $at $alias $model (join ", " $pool.models)) -}}
    {{- end -}}
  {{- end -}}
  {{- if eq (empty $pool.backends) (empty $pool.discover) -}}
    {{- $problems = append $problems (printf "%s: needs exactly one of backends and discover" $at) -}}
  {{- end -}}
  {{- range $backend, $_ := $pool.backends -}}
    {{- if hasKey $owners $backend -}}
      {{- $problems = append $problems (printf "%s.backends.%s: is already a backend of pool %s" $at $backend (get $owners $backend)) -}}
    {{- end -}}
    {{- $_ := set $owners $backend $name -}}
  {{- end -}}
  {{- with $pool.discover -}}
    {{- if eq (empty .dns) (empty .endpoint_slices) -}}
      {{- $problems = append $problems (printf "%s.discover: needs exactly one of dns and endpoint_slices" $at) -}}
    {{- else if and .endpoint_slices (not (has .endpoint_slices.namespace $.Values.discovery.namespaces)) -}}
      {{- $problems = append $problems (printf "%s.discover.endpoint_slices.namespace: the router may not watch %q: add it to discovery.namespaces" $at .endpoint_slices.namespace) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- with .Values.config.routing.default_pool -}}
  {{- $named = append $named (list "config.routing.default_pool" .) -}}
{{- end -}}
{{- range $name, $others := .Values.config.routing.fallback -}}
  {{- $named = append $named (list "config.routing.fallback" $name) -}}
  {{- range $others -}}
    {{- $named = append $named (list (printf "config.routing.fallback.%s" $name) .) -}}
    {{- if eq . $name -}}
      {{- $problems = append $problems (printf "config.routing.fallback.%s: a pool cannot be its own fallback" $name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $rules := list "default" -}}
{{- range $number, $rule := .Values.rules.rules -}}
  {{- $at := printf "rules.rules[%d]" $number -}}
  {{- if has $rule.name $rules -}}
    {{- $problems = append $problems (printf "%s.name: %q is taken by an earlier rule or by the built-in rule default; choose another name" $at $rule.name) -}}
  {{- end -}}
  {{- $rules = append $rules $rule.name -}}
  {{- if kindIs "string" $rule.route_to -}}
    {{- $named = append $named (list (printf "%s.route_to" $at) $rule.route_to) -}}
  {{- else if not $rule.route_to -}}
    {{- $problems = append $problems (printf "%s.route_to: is empty; name at least one pool" $at) -}}
  {{- else -}}
    {{- range $rule.route_to -}}
      {{- $named = append $named (list (printf "%s.route_to.pool" $at) .pool) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $number, $test := .Values.rules.tests -}}
  {{- $at := printf "rules.tests[%d]" $number -}}
  {{- with $test.expect.pool -}}
    {{- $named = append $named (list (printf "%s.expect.pool" $at) .) -}}
    {{- $models := get $served . | default list -}}
    {{- $model := $test.request.model -}}
    {{- if and $model (hasKey $pools .) (not (or (has $model $models) (has "*" $models))) -}}
      {{- $problems = append $problems (printf "%s.request.model: pool %s does not serve %q (known: %s)" $at . $model (join ", " $models)) -}}
    {{- end -}}
  {{- end -}}
  {{- if and $test.expect.rule (not (has $test.expect.rule $rules)) -}}
    {{- $problems = append $problems (printf "%s.expect.rule: %q is not a rule (known: %s)" $at $test.expect.rule (join ", " $rules)) -}}
  {{- end -}}
{{- end -}}
{{- range $named -}}
  {{- if not (hasKey $pools (last .)) -}}
    {{- $problems = append $problems (printf "%s: %q is not one of config.pools (%s)" (first .) (last .) $known) -}}
  {{- end -}}
{{- end -}}
{{- if $problems -}}
{{- fail (join "\n" (prepend $problems "")) -}}
{{- end -}}
{{- end }}

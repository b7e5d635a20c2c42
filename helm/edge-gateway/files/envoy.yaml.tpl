node:
  id: edge-gateway
  cluster: edge-gateway
admin:
  address:
    socket_address:
      address: 127.0.0.1
      port_value: 9901
application_log_config:
  log_format:
    json_format:
      time: '%Y-%m-%dT%H:%M:%S.%fZ'
      level: '%l'
      service: edge-gateway
      event: '%n'
      message: '%j'
stats_config:
  histogram_bucket_settings:
  - match:
      suffix: _rq_time
    buckets:
    - 1
    - 2
    - 5
    - 10
    - 25
    - 50
    - 100
    - 250
    - 500
    - 1000
    - 2500
    - 5000
    - 10000
    - 30000
    - 60000
    - 120000
    - 300000
    - 630000
overload_manager:
  refresh_interval: 0.25s
  buffer_factory_config:
    minimum_account_to_track_power_of_two: 20
  resource_monitors:
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: 750780416
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 10000
  actions:
  - name: envoy.overload_actions.shrink_heap
    triggers:
    - name: envoy.resource_monitors.fixed_heap
      threshold:
        value: 0.9
  - name: envoy.overload_actions.reduce_timeouts
    triggers:
    - name: envoy.resource_monitors.fixed_heap
      scaled:
        scaling_threshold: 0.7
        saturation_threshold: 0.9
    typed_config:
      '@type': type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig
      timer_scale_factors:
      - timer: HTTP_DOWNSTREAM_CONNECTION_IDLE
        min_timeout: 5s
  - name: envoy.overload_actions.disable_http_keepalive
    triggers:
    - name: envoy.resource_monitors.fixed_heap
      threshold:
        value: 0.92
  - name: envoy.overload_actions.reset_high_memory_stream
    triggers:
    - name: envoy.resource_monitors.fixed_heap
      scaled:
        scaling_threshold: 0.93
        saturation_threshold: 0.98
  - name: envoy.overload_actions.stop_accepting_requests
    triggers:
    - name: envoy.resource_monitors.fixed_heap
      threshold:
        value: 0.95
  - name: envoy.overload_actions.stop_accepting_connections
    triggers:
    - name: envoy.resource_monitors.fixed_heap
      threshold:
        value: 0.98
layered_runtime:
  layers:
  - name: static
    static_layer:
      overload.premature_reset_min_stream_lifetime_seconds: 1
      overload.premature_reset_total_stream_count: 500
static_resources:
  listeners:
  - name: edge
    address:
      socket_address:
        address: 0.0.0.0
        port_value: 8080
        ipv4_compat: false
    traffic_direction: INBOUND
    per_connection_buffer_limit_bytes: 32768
    socket_options:
    - level: 1
      name: 9
      int_value: 1
      description: SO_KEEPALIVE
    - level: 6
      name: 4
      int_value: 60
      description: TCP_KEEPIDLE
    - level: 6
      name: 5
      int_value: 30
      description: TCP_KEEPINTVL
    - level: 6
      name: 6
      int_value: 3
      description: TCP_KEEPCNT
    listener_filters_timeout: 10s
    listener_filters:
{{- if .Values.tls.enabled }}
    - name: envoy.filters.listener.tls_inspector
{{- else }}
    - name: envoy.filters.listener.http_inspector
{{- end }}
      typed_config:
{{- if .Values.tls.enabled }}
        '@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
{{- else }}
        '@type': type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector
{{- end }}
    filter_chains:
    - name: clients
{{- if .Values.tls.enabled }}
      transport_socket_connect_timeout: 10s
      filter_chain_match:
        transport_protocol: tls
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols:
            - http/1.1
            tls_params:
              tls_minimum_protocol_version: TLSv1_2
              tls_maximum_protocol_version: TLSv1_3
              cipher_suites:
              - ECDHE-ECDSA-AES128-GCM-SHA256
              - ECDHE-RSA-AES128-GCM-SHA256
              - ECDHE-ECDSA-AES256-GCM-SHA384
              - ECDHE-RSA-AES256-GCM-SHA384
              - ECDHE-ECDSA-CHACHA20-POLY1305
              - ECDHE-RSA-CHACHA20-POLY1305
              ecdh_curves:
              - X25519
              - P-256
            tls_certificate_sds_secret_configs:
            - name: edge_certificate
              sds_config:
                resource_api_version: V3
                path_config_source:
                  path: /etc/edge/edge_certificate.yaml
{{- end }}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          codec_type: HTTP1
          server_name: edge-gateway
          rds:
            route_config_name: edge_routes
            config_source:
              resource_api_version: V3
              path_config_source:
                path: /etc/edge-routes/routes.yaml
                watched_directory:
                  path: /etc/edge-routes
          use_remote_address: true
          xff_num_trusted_hops: 0
          early_header_mutation_extensions:
          - name: forget_what_clients_may_not_say
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
              mutations:
              - remove: x-client-id
              - remove_on_match:
                  key_matcher:
                    prefix: x-edge-
                    ignore_case: true
              - remove: x-request-id
              - remove: traceparent
              - remove: tracestate
              - remove: baggage
              - remove: te
              - remove_on_match:
                  key_matcher:
                    prefix: x-route-
                    ignore_case: true
              - remove_on_match:
                  key_matcher:
                    prefix: x-envoy-
                    ignore_case: true
              - remove_on_match:
                  key_matcher:
                    prefix: x-ratelimit-
                    ignore_case: true
              - remove_on_match:
                  key_matcher:
                    prefix: x-forwarded-
                    ignore_case: true
              - remove: forwarded
              - remove: x-real-ip
          generate_request_id: true
          preserve_external_request_id: false
          always_set_request_id_in_response: true
          request_id_extension:
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig
              pack_trace_reason: false
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: KEEP_UNCHANGED
          strip_any_host_port: true
          max_request_headers_kb: 16
          common_http_protocol_options:
            headers_with_underscores_action: DROP_HEADER
            max_headers_count: 60
{{- if .Values.tls.enabled }}
            idle_timeout: 15s
{{- else }}
            idle_timeout: 660s
{{- end }}
          http_protocol_options:
            accept_http_10: true
            default_host_for_http_10: localhost
          http2_protocol_options:
            max_concurrent_streams: 100
            initial_stream_window_size: 65536
            initial_connection_window_size: 1048576
          request_headers_timeout: 10s
          request_timeout: 60s
          stream_idle_timeout: 630s
          stream_flush_timeout: 120s
          drain_timeout: 5s
          delayed_close_timeout: 1s
          tracing:
            random_sampling:
              value: 100.0
            client_sampling:
              value: 0
            overall_sampling:
              value: 100
            spawn_upstream_span: false
            max_path_tag_length: 1
            custom_tags:
            - tag: request_id
              request_header:
                name: x-request-id
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                '@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: edge-gateway
                grpc_service:
                  envoy_grpc:
                    cluster_name: trace_collector
                  timeout: 1s
          access_log:
          - name: envoy.access_loggers.stdout
            filter:
              metadata_filter:
                matcher:
                  filter: edge
                  path:
                  - key: quiet
                  value:
                    bool_match: false
                match_if_key_not_found: true
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format:
                json_format:
                  time: '%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%'
                  level: info
                  service: edge-gateway
                  event: request
                  request_id: '%RESP(X-REQUEST-ID)%'
                  trace_id: '%TRACE_ID%'
                  client_id: '%REQ(X-CLIENT-ID)%'
                  method: '%REQ(:METHOD)%'
                  path: '%ROUTE_NAME%'
                  protocol: '%PROTOCOL%'
                  code: '%RESPONSE_CODE%'
                  flags: '%RESPONSE_FLAGS%'
                  details: '%RESPONSE_CODE_DETAILS%'
                  refused_param: '%DYNAMIC_METADATA(edge:param)%'
                  refused_code: '%DYNAMIC_METADATA(edge:code)%'
                  upstream: '%UPSTREAM_HOST%'
                  attempts: '%UPSTREAM_REQUEST_ATTEMPT_COUNT%'
                  backend: '%RESP(X-ROUTE-BACKEND)%'
                  rule: '%RESP(X-ROUTE-RULE)%'
                  bytes_received: '%BYTES_RECEIVED%'
                  bytes_sent: '%BYTES_SENT%'
                  request_received_ms: '%COMMON_DURATION(DS_RX_BEG:DS_RX_END:ms)%'
                  forwarded_ms: '%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ms)%'
                  first_byte_ms: '%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:ms)%'
                  duration_ms: '%DURATION%'
                  tokens: '%TRAILER(X-ROUTE-TOKENS)%'
                  tokens_known_at_start: '%DYNAMIC_METADATA(edge:tokens)%'
                  tokens_reserved: '%DYNAMIC_METADATA(edge:reserve)%'
                  peer: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'
          local_reply_config: &id004
            mappers:
            - filter:
                metadata_filter:
                  matcher:
                    filter: edge
                    path:
                    - key: refused
                    value:
                      bool_match: true
                  match_if_key_not_found: false
              headers_to_add:
              - &id001
                header:
                  key: x-request-id
                  value: '%UNIQUE_ID%'
                append_action: ADD_IF_ABSENT
              body_format_override:
                text_format_source:
                  inline_string: '%LOCAL_REPLY_BODY%'
                content_type: application/json
            - filter:
                metadata_filter:
                  matcher:
                    filter: envoy.filters.http.ratelimit
                    path:
                    - key: refused
                    value:
                      bool_match: true
                  match_if_key_not_found: false
              headers_to_add:
              - *id001
              body_format_override:
                text_format_source:
                  inline_string: '%LOCAL_REPLY_BODY%'
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 400
                          runtime_key: edge.none
                  - &id002
                    header_filter:
                      header:
                        name: :path
                        string_match:
                          prefix: /v1/messages
              headers_to_add:
              - *id001
              - &id003
                header:
                  key: request-id
                  value: '%REQ(X-REQUEST-ID)%'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: invalid_request_error
                    message: The request is not acceptable HTTP (%RESPONSE_CODE_DETAILS%).
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 400
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The request is not acceptable HTTP (%RESPONSE_CODE_DETAILS%).
                    type: invalid_request_error
                    param: null
                    code: bad_http_request
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - metadata_filter:
                      matcher:
                        filter: edge
                        path:
                        - key: two_credentials
                        value:
                          bool_match: true
                      match_if_key_not_found: false
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              - header:
                  key: www-authenticate
                  value: Bearer realm="llm"
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: authentication_error
                    message: 'Two credentials were given. Send one of ''Authorization: Bearer <key>'' and ''x-api-key: <key>''.'
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                metadata_filter:
                  matcher:
                    filter: edge
                    path:
                    - key: two_credentials
                    value:
                      bool_match: true
                  match_if_key_not_found: false
              headers_to_add:
              - *id001
              - header:
                  key: www-authenticate
                  value: Bearer realm="llm"
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  error:
                    message: 'Two credentials were given. Send one of ''Authorization: Bearer <key>'' and ''x-api-key: <key>''.'
                    type: authentication_error
                    param: null
                    code: two_credentials
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 401
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              - header:
                  key: www-authenticate
                  value: Bearer realm="llm"
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: authentication_error
                    message: 'No valid credential was given. Send ''Authorization: Bearer <key>''.'
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 401
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              - header:
                  key: www-authenticate
                  value: Bearer realm="llm"
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  error:
                    message: 'No valid credential was given. Send ''Authorization: Bearer <key>''.'
                    type: authentication_error
                    param: null
                    code: invalid_api_key
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 403
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: permission_error
                    message: The edge does not allow this (%RESPONSE_CODE_DETAILS%).
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 403
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The edge does not allow this (%RESPONSE_CODE_DETAILS%).
                    type: permission_error
                    param: null
                    code: forbidden
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 404
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: not_found_error
                    message: There is nothing at this path for this method. See the API's list of paths.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 404
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: There is nothing at this path for this method. See the API's list of paths.
                    type: invalid_request_error
                    param: null
                    code: unknown_url
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 405
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: invalid_request_error
                    message: This path does not take that method; the allow header names the one it takes.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 405
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: This path does not take that method; the allow header names the one it takes.
                    type: invalid_request_error
                    param: null
                    code: method_not_allowed
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 408
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: timeout_error
                    message: The request did not arrive completely in time.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 408
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The request did not arrive completely in time.
                    type: invalid_request_error
                    param: null
                    code: request_timeout
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 413
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: request_too_large
                    message: The request body is larger than this path allows.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 413
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The request body is larger than this path allows.
                    type: invalid_request_error
                    param: null
                    code: request_too_large
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 426
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: invalid_request_error
                    message: Use HTTP/1.1 or HTTP/2.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 426
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: Use HTTP/1.1 or HTTP/2.
                    type: invalid_request_error
                    param: null
                    code: http_version_not_supported
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 429
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              - header:
                  key: retry-after
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: rate_limit_error
                    message: Too many requests from this client. Retry after the time in the retry-after header.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 429
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              - header:
                  key: retry-after
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  error:
                    message: Too many requests from this client. Retry after the time in the retry-after header.
                    type: rate_limit_error
                    param: null
                    code: rate_limit_exceeded
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 431
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: invalid_request_error
                    message: The request has too many or too large headers.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 431
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The request has too many or too large headers.
                    type: invalid_request_error
                    param: null
                    code: request_headers_too_large
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 501
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: api_error
                    message: This transfer coding is not supported.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 501
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: This transfer coding is not supported.
                    type: invalid_request_error
                    param: null
                    code: unsupported_transfer_encoding
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 504
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: timeout_error
                    message: The service did not answer in time.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 504
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The service did not answer in time.
                    type: server_error
                    param: null
                    code: upstream_timeout
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 502
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: api_error
                    message: The service gave an answer that is not HTTP.
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 502
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The service gave an answer that is not HTTP.
                    type: server_error
                    param: null
                    code: upstream_protocol_error
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 503
                          runtime_key: edge.none
                  - response_flag_filter:
                      flags:
                      - UF
                      - UH
                      - UO
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              - header:
                  key: retry-after
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              - header:
                  key: x-edge-unsent
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: overloaded_error
                    message: The service cannot take the request now (%RESPONSE_FLAGS%).
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 503
                          runtime_key: edge.none
                  - response_flag_filter:
                      flags:
                      - UF
                      - UH
                      - UO
              headers_to_add:
              - *id001
              - header:
                  key: retry-after
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              - header:
                  key: x-edge-unsent
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  error:
                    message: The service cannot take the request now (%RESPONSE_FLAGS%).
                    type: server_error
                    param: null
                    code: service_unavailable
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: EQ
                        value:
                          default_value: 503
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              - header:
                  key: retry-after
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: overloaded_error
                    message: The service cannot take the request now (%RESPONSE_FLAGS%).
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: EQ
                    value:
                      default_value: 503
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              - header:
                  key: retry-after
                  value: '1'
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  error:
                    message: The service cannot take the request now (%RESPONSE_FLAGS%).
                    type: server_error
                    param: null
                    code: service_unavailable
                content_type: application/json
            - filter:
                and_filter:
                  filters:
                  - status_code_filter:
                      comparison:
                        op: GE
                        value:
                          default_value: 400
                          runtime_key: edge.none
                  - *id002
              headers_to_add:
              - *id001
              - *id003
              body_format_override:
                json_format:
                  type: error
                  error:
                    type: api_error
                    message: The edge could not complete the request (%RESPONSE_CODE_DETAILS%).
                  request_id: '%REQ(X-REQUEST-ID)%'
                content_type: application/json
            - filter:
                status_code_filter:
                  comparison:
                    op: GE
                    value:
                      default_value: 400
                      runtime_key: edge.none
              headers_to_add:
              - *id001
              body_format_override:
                json_format:
                  error:
                    message: The edge could not complete the request (%RESPONSE_CODE_DETAILS%).
                    type: server_error
                    param: null
                    code: edge_error
                content_type: application/json
          http_filters: &id005
          - name: edge.closing
            disabled: true
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
              stat_prefix: closing
              source_codes:
                close:
                  inline_string: |
                    local DIRECT = true
                    -- Ends connections that nobody has authenticated: only an authenticated client keeps an idle connection.
                    -- The renderer writes DIRECT before this script: whether clients connect to the edge without a proxy.
                    local close_unauthenticated
                    do
                      -- On HTTP/2 Envoy sends GOAWAY before the response, and some clients then drop the response. So an HTTP/2
                      -- connection ends at its fifth such request within a minute. Behind a proxy it carries requests of many clients.
                      local REQUESTS, WINDOW_MS, MAX_CONNECTIONS = 5, 60000, 10000
                      local began, connections, counts = 0, 0, {}

                      function close_unauthenticated(handle)
                        local info = handle:streamInfo()
                        if info:protocol() ~= "HTTP/2" then return info:drainConnectionUponCompletion() end
                        if not DIRECT then return end
                        local now = handle:timestamp()
                        if now - began >= WINDOW_MS or connections >= MAX_CONNECTIONS then began, connections, counts = now, 0, {} end
                        local connection = info:downstreamDirectRemoteAddress()
                        local count = counts[connection]
                        if not count then connections = connections + 1 end
                        counts[connection] = (count or 0) + 1
                        if counts[connection] >= REQUESTS then info:drainConnectionUponCompletion() end
                      end
                    end
                    function envoy_on_request(handle) close_unauthenticated(handle) end
                close_refused:
                  inline_string: |
                    local DIRECT = true
                    -- Ends connections that nobody has authenticated: only an authenticated client keeps an idle connection.
                    -- The renderer writes DIRECT before this script: whether clients connect to the edge without a proxy.
                    local close_unauthenticated
                    do
                      -- On HTTP/2 Envoy sends GOAWAY before the response, and some clients then drop the response. So an HTTP/2
                      -- connection ends at its fifth such request within a minute. Behind a proxy it carries requests of many clients.
                      local REQUESTS, WINDOW_MS, MAX_CONNECTIONS = 5, 60000, 10000
                      local began, connections, counts = 0, 0, {}

                      function close_unauthenticated(handle)
                        local info = handle:streamInfo()
                        if info:protocol() ~= "HTTP/2" then return info:drainConnectionUponCompletion() end
                        if not DIRECT then return end
                        local now = handle:timestamp()
                        if now - began >= WINDOW_MS or connections >= MAX_CONNECTIONS then began, connections, counts = now, 0, {} end
                        local connection = info:downstreamDirectRemoteAddress()
                        local count = counts[connection]
                        if not count then connections = connections + 1 end
                        counts[connection] = (count or 0) + 1
                        if counts[connection] >= REQUESTS then info:drainConnectionUponCompletion() end
                      end
                    end
                    function envoy_on_response(handle)
                      if handle:headers():get(":status") == "401" then close_unauthenticated(handle) end
                    end
          - name: envoy.filters.http.health_check
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
              pass_through_mode: false
              headers:
              - name: :path
                string_match:
                  safe_regex:
                    regex: /healthz(\?.*)?
              - name: :method
                string_match:
                  safe_regex:
                    regex: GET|HEAD
          - name: envoy.filters.http.header_to_metadata
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config
              response_rules:
              - header: x-route-tokens
                on_header_present:
                  metadata_namespace: edge
                  key: tokens
                  type: STRING
                remove: true
          - name: edge.authentication
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
              stat_prefix: authentication
              default_source_code:
                inline_string: |
                  function envoy_on_request(handle)
                    handle:respond({ [":status"] = "401" }, "")
                  end
          - name: envoy.filters.http.local_ratelimit
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: client_rate
          - name: envoy.filters.http.lua
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
              stat_prefix: admission
              default_source_code:
                inline_string: |
                  local RULES = { ["/v1/chat/completions"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["required"] = true, ["min_items"] = 1, ["max_items"] = 10000, ["items"] = "object" }, { ["name"] = "stream", ["types"] = { ["boolean"] = true }, ["types_said"] = "true or false", ["nullable"] = true }, { ["name"] = "temperature", ["types"] = { ["number"] = true, ["integer"] = true }, ["types_said"] = "a number", ["nullable"] = true, ["minimum"] = 0 }, { ["name"] = "n", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 128 }, { ["name"] = "max_tokens", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 1000000 }, { ["name"] = "max_completion_tokens", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 1000000 } }, ["wanted"] = { ["model"] = true, ["messages"] = true, ["stream"] = true, ["temperature"] = true, ["n"] = true, ["max_tokens"] = true, ["max_completion_tokens"] = true }, ["output_tokens"] = { "max_completion_tokens", "max_tokens" } }, ["/v1/completions"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "prompt", ["types"] = { ["string"] = true, ["array"] = true }, ["types_said"] = "a string or an array", ["nullable"] = true, ["min_items"] = 1, ["max_items"] = 1000000 }, { ["name"] = "prompt_embeds", ["types"] = { ["string"] = true, ["array"] = true }, ["types_said"] = "a string or an array", ["nullable"] = true, ["min_items"] = 1, ["max_items"] = 1000 }, { ["name"] = "stream", ["types"] = { ["boolean"] = true }, ["types_said"] = "true or false", ["nullable"] = true }, { ["name"] = "temperature", ["types"] = { ["number"] = true, ["integer"] = true }, ["types_said"] = "a number", ["nullable"] = true, ["minimum"] = 0 }, { ["name"] = "n", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 128 }, { ["name"] = "best_of", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 128 }, { ["name"] = "max_tokens", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 1000000 } }, ["wanted"] = { ["model"] = true, ["prompt"] = true, ["prompt_embeds"] = true, ["stream"] = true, ["temperature"] = true, ["n"] = true, ["best_of"] = true, ["max_tokens"] = true }, ["any_of"] = { "prompt", "prompt_embeds" }, ["output_tokens"] = { "max_tokens" } }, ["/v1/embeddings"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "input", ["types"] = { ["string"] = true, ["array"] = true }, ["types_said"] = "a string or an array", ["min_items"] = 1, ["max_items"] = 1000000 }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["input"] = true, ["messages"] = true }, ["any_of"] = { "input", "messages" } }, ["/v1/responses"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "input", ["types"] = { ["string"] = true, ["array"] = true }, ["types_said"] = "a string or an array", ["required"] = true, ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "stream", ["types"] = { ["boolean"] = true }, ["types_said"] = "true or false", ["nullable"] = true }, { ["name"] = "temperature", ["types"] = { ["number"] = true, ["integer"] = true }, ["types_said"] = "a number", ["nullable"] = true, ["minimum"] = 0 }, { ["name"] = "max_output_tokens", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 1000000 } }, ["wanted"] = { ["model"] = true, ["input"] = true, ["stream"] = true, ["temperature"] = true, ["max_output_tokens"] = true }, ["output_tokens"] = { "max_output_tokens" } }, ["/v1/messages"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["required"] = true, ["min_items"] = 1, ["max_items"] = 10000, ["items"] = "object" }, { ["name"] = "stream", ["types"] = { ["boolean"] = true }, ["types_said"] = "true or false", ["nullable"] = true }, { ["name"] = "temperature", ["types"] = { ["number"] = true, ["integer"] = true }, ["types_said"] = "a number", ["nullable"] = true, ["minimum"] = 0 }, { ["name"] = "max_tokens", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["required"] = true, ["minimum"] = 1, ["maximum"] = 1000000 } }, ["wanted"] = { ["model"] = true, ["messages"] = true, ["stream"] = true, ["temperature"] = true, ["max_tokens"] = true }, ["output_tokens"] = { "max_tokens" } }, ["/v1/messages/count_tokens"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["required"] = true, ["min_items"] = 1, ["max_items"] = 10000, ["items"] = "object" } }, ["wanted"] = { ["model"] = true, ["messages"] = true } }, ["/v1/rerank"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "query", ["types"] = { ["string"] = true, ["object"] = true }, ["types_said"] = "a string or an object", ["required"] = true }, { ["name"] = "documents", ["types"] = { ["string"] = true, ["array"] = true, ["object"] = true }, ["types_said"] = "a string or an array or an object", ["required"] = true, ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["query"] = true, ["documents"] = true } }, ["/v2/rerank"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "query", ["types"] = { ["string"] = true, ["object"] = true }, ["types_said"] = "a string or an object", ["required"] = true }, { ["name"] = "documents", ["types"] = { ["string"] = true, ["array"] = true, ["object"] = true }, ["types_said"] = "a string or an array or an object", ["required"] = true, ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["query"] = true, ["documents"] = true } }, ["/rerank"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "query", ["types"] = { ["string"] = true, ["object"] = true }, ["types_said"] = "a string or an object", ["required"] = true }, { ["name"] = "documents", ["types"] = { ["string"] = true, ["array"] = true, ["object"] = true }, ["types_said"] = "a string or an array or an object", ["required"] = true, ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["query"] = true, ["documents"] = true } }, ["/v1/score"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "queries", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "documents", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "items", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "data_1", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "data_2", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "text_1", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "text_2", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["queries"] = true, ["documents"] = true, ["items"] = true, ["data_1"] = true, ["data_2"] = true, ["text_1"] = true, ["text_2"] = true }, ["any_of"] = { "queries", "data_1", "text_1" } }, ["/score"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "queries", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "documents", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "items", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "data_1", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "data_2", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "text_1", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 }, { ["name"] = "text_2", ["types"] = { ["string"] = true, ["object"] = true, ["array"] = true }, ["types_said"] = "a string or an object or an array", ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["queries"] = true, ["documents"] = true, ["items"] = true, ["data_1"] = true, ["data_2"] = true, ["text_1"] = true, ["text_2"] = true }, ["any_of"] = { "queries", "data_1", "text_1" } }, ["/v1/classify"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "input", ["types"] = { ["string"] = true, ["array"] = true }, ["types_said"] = "a string or an array", ["min_items"] = 1, ["max_items"] = 1000000 }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["input"] = true, ["messages"] = true }, ["any_of"] = { "input", "messages" } }, ["/classify"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "input", ["types"] = { ["string"] = true, ["array"] = true }, ["types_said"] = "a string or an array", ["min_items"] = 1, ["max_items"] = 1000000 }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["input"] = true, ["messages"] = true }, ["any_of"] = { "input", "messages" } }, ["/pooling"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "input", ["types"] = { ["string"] = true, ["array"] = true }, ["types_said"] = "a string or an array", ["min_items"] = 1, ["max_items"] = 1000000 }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["min_items"] = 1, ["max_items"] = 10000 } }, ["wanted"] = { ["model"] = true, ["input"] = true, ["messages"] = true }, ["any_of"] = { "input", "messages", "data" } }, ["/tokenize"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "prompt", ["types"] = { ["string"] = true }, ["types_said"] = "a string" }, { ["name"] = "messages", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["min_items"] = 1, ["max_items"] = 10000, ["items"] = "object" } }, ["wanted"] = { ["model"] = true, ["prompt"] = true, ["messages"] = true }, ["any_of"] = { "prompt", "messages" } }, ["/detokenize"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "tokens", ["types"] = { ["array"] = true }, ["types_said"] = "an array", ["required"] = true, ["max_items"] = 1000000 } }, ["wanted"] = { ["model"] = true, ["tokens"] = true } }, ["/v1/audio/transcriptions"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "file", ["types"] = { ["file"] = true }, ["types_said"] = "a file", ["required"] = true }, { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "stream", ["types"] = { ["boolean"] = true }, ["types_said"] = "true or false", ["nullable"] = true }, { ["name"] = "temperature", ["types"] = { ["number"] = true, ["integer"] = true }, ["types_said"] = "a number", ["nullable"] = true, ["minimum"] = 0 }, { ["name"] = "max_completion_tokens", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 1000000 } }, ["wanted"] = { ["file"] = true, ["model"] = true, ["stream"] = true, ["temperature"] = true, ["max_completion_tokens"] = true }, ["output_tokens"] = { "max_completion_tokens" }, ["form"] = true }, ["/v1/audio/translations"] = { ["max_bytes"] = 10485760, ["fields"] = { { ["name"] = "file", ["types"] = { ["file"] = true }, ["types_said"] = "a file", ["required"] = true }, { ["name"] = "model", ["types"] = { ["string"] = true }, ["types_said"] = "a string", ["required"] = true, ["min_length"] = 1, ["max_length"] = 256 }, { ["name"] = "stream", ["types"] = { ["boolean"] = true }, ["types_said"] = "true or false", ["nullable"] = true }, { ["name"] = "temperature", ["types"] = { ["number"] = true, ["integer"] = true }, ["types_said"] = "a number", ["nullable"] = true, ["minimum"] = 0 }, { ["name"] = "max_completion_tokens", ["types"] = { ["integer"] = true }, ["types_said"] = "an integer", ["nullable"] = true, ["minimum"] = 1, ["maximum"] = 1000000 } }, ["wanted"] = { ["file"] = true, ["model"] = true, ["stream"] = true, ["temperature"] = true, ["max_completion_tokens"] = true }, ["output_tokens"] = { "max_completion_tokens" }, ["form"] = true } }
                  local QUERIES = { ["/v1/messages"] = { ["beta"] = true }, ["/v1/messages/count_tokens"] = { ["beta"] = true }, ["/v1/models"] = { ["limit"] = true, ["before_id"] = true, ["after_id"] = true }, ["/v1/responses/{id}"] = { ["stream"] = true, ["starting_after"] = true, ["include"] = true, ["include[]"] = true, ["include%5B%5D"] = true, ["include_obfuscation"] = true } }
                  local HELD = { ["max_client_bytes"] = 134217728, ["max_body_bytes"] = 10485760 }
                  local MEDIA_HOSTS = nil
{{- if .Values.budgets.enabled }}
                  local BUDGETS = { ["prompt_bytes_per_token"] = 3.0, ["assumed_max_tokens"] = 8192 }
{{- else }}
                  local BUDGETS = nil
{{- end }}

                  -- Checks in one pass that a text is strict JSON, and reports the fields at the top level of its object.
                  -- Must not know HTTP or paths. Works on bytes through LuaJIT's FFI: a byte costs about a nanosecond once
                  -- compiled, and values that are not reported cause no allocation.
                  local ffi = require("ffi")

                  local MAX_DEPTH = 64
                  local MAX_NUMBER_BYTES = 64
                  local MAX_EXPONENT_DIGITS = 4
                  -- A check allocates memory for keys, about 0.1 µs each: this number takes a worker milliseconds.
                  local MAX_KEYS = 50000
                  -- A container costs the router a hundred times as much as its two bytes.
                  local MAX_CONTAINERS = 100000

                  -- Kinds of values, with the names of the field rules.
                  local STRING, NUMBER, INTEGER, BOOLEAN, NULL, ARRAY, OBJECT =
                    "string", "number", "integer", "boolean", "null", "array", "object"

                  -- Class of a byte inside a string: 0 plain, 1 ends the run.
                  local SPECIAL = ffi.new("uint8_t[256]")
                  for byte = 0, 255 do
                    if byte < 0x20 or byte == 0x22 or byte == 0x5C or byte >= 0x80 then SPECIAL[byte] = 1 end
                  end
                  -- What follows a backslash: 1 a single character, 2 four hexadecimal digits.
                  local ESCAPE = ffi.new("uint8_t[256]")
                  for _, byte in ipairs({ 0x22, 0x5C, 0x2F, 0x62, 0x66, 0x6E, 0x72, 0x74 }) do ESCAPE[byte] = 1 end
                  ESCAPE[0x75] = 2
                  -- The value of a hexadecimal digit; 255 for other bytes.
                  local HEX = ffi.new("uint8_t[256]")
                  for byte = 0, 255 do HEX[byte] = 255 end
                  for digit = 0, 9 do HEX[0x30 + digit] = digit end
                  for digit = 0, 5 do
                    HEX[0x41 + digit] = 10 + digit
                    HEX[0x61 + digit] = 10 + digit
                  end

                  -- Buffers of one check. A check never yields, so one set per worker is enough.
                  local container = ffi.new("uint8_t[?]", MAX_DEPTH + 2) -- 1 object, 2 array
                  local members = ffi.new("int32_t[?]", MAX_DEPTH + 2)
                  local identity = ffi.new("double[?]", MAX_DEPTH + 2)
                  local opened_as = {} -- the key whose value the container is, false for a member of an array

                  local function four_hex(p, i)
                    local a, b, c, d = HEX[p[i]], HEX[p[i + 1]], HEX[p[i + 2]], HEX[p[i + 3]]
                    if a == 255 or b == 255 or c == 255 or d == 255 then return nil end
                    return a * 4096 + b * 256 + c * 16 + d
                  end

                  -- Returns the position after the UTF-8 sequence at i, or nil: overlong forms, surrogates and values above
                  -- U+10FFFF are not UTF-8. A read past the end finds Lua's closing NUL, which fails the test.
                  local function after_utf8(p, i)
                    local lead = p[i]
                    if lead < 0xC2 then return nil end
                    if lead < 0xE0 then
                      if p[i + 1] - 0x80 >= 0 and p[i + 1] < 0xC0 then return i + 2 end
                      return nil
                    end
                    local low, high = 0x80, 0xBF
                    if lead < 0xF0 then
                      if lead == 0xE0 then low = 0xA0 elseif lead == 0xED then high = 0x9F end
                      if p[i + 1] < low or p[i + 1] > high or p[i + 2] < 0x80 or p[i + 2] > 0xBF then return nil end
                      return i + 3
                    end
                    if lead > 0xF4 then return nil end
                    if lead == 0xF0 then low = 0x90 elseif lead == 0xF4 then high = 0x8F end
                    if p[i + 1] < low or p[i + 1] > high or p[i + 2] < 0x80 or p[i + 2] > 0xBF
                      or p[i + 3] < 0x80 or p[i + 3] > 0xBF then return nil end
                    return i + 4
                  end

                  -- Reads a string whose first byte is at i. Returns the position after the closing quote and whether it has an
                  -- escape; or nil and the mistake.
                  local function after_string(p, i)
                    local escaped = false
                    while true do
                      while SPECIAL[p[i]] == 0 do i = i + 1 end
                      local byte = p[i]
                      if byte == 0x22 then return i + 1, escaped end
                      if byte == 0x5C then
                        escaped = true
                        local kind = ESCAPE[p[i + 1]]
                        if kind == 1 then
                          i = i + 2
                        elseif kind == 2 then
                          local unit = four_hex(p, i + 2)
                          if not unit then return nil, "an incomplete \\u escape", i end
                          i = i + 6
                          if unit >= 0xDC00 and unit <= 0xDFFF then return nil, "a lone surrogate", i - 6 end
                          if unit >= 0xD800 and unit <= 0xDBFF then
                            local low = p[i] == 0x5C and p[i + 1] == 0x75 and four_hex(p, i + 2)
                            if not low or low < 0xDC00 or low > 0xDFFF then return nil, "a lone surrogate", i - 6 end
                            i = i + 6
                          end
                        else
                          return nil, "an unknown escape", i
                        end
                      elseif byte < 0x20 then
                        return nil, "a control character or an unfinished string", i
                      else
                        local after = after_utf8(p, i)
                        if not after then return nil, "bytes that are not UTF-8", i end
                        i = after
                      end
                    end
                  end

                  -- Reads a number. Returns the position after it, whether it is written as an integer, and whether its exponent
                  -- has so many digits that parsers disagree; or nil.
                  local function after_number(p, i)
                    local integer = true
                    if p[i] == 0x2D then i = i + 1 end
                    if p[i] == 0x30 then
                      i = i + 1
                    elseif p[i] >= 0x31 and p[i] <= 0x39 then
                      repeat i = i + 1 until p[i] < 0x30 or p[i] > 0x39
                    else
                      return nil
                    end
                    if p[i] == 0x2E then
                      integer = false
                      i = i + 1
                      if p[i] < 0x30 or p[i] > 0x39 then return nil end
                      repeat i = i + 1 until p[i] < 0x30 or p[i] > 0x39
                    end
                    if p[i] == 0x65 or p[i] == 0x45 then
                      integer = false
                      i = i + 1
                      if p[i] == 0x2B or p[i] == 0x2D then i = i + 1 end
                      if p[i] < 0x30 or p[i] > 0x39 then return nil end
                      local digits = i
                      repeat i = i + 1 until p[i] < 0x30 or p[i] > 0x39
                      if i - digits > MAX_EXPONENT_DIGITS then return i, false, true end
                    end
                    return i, integer, false
                  end

                  local function utf8_of(code)
                    if code < 0x80 then return string.char(code) end
                    if code < 0x800 then return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
                    if code < 0x10000 then
                      return string.char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
                    end
                    return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64,
                      0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
                  end

                  local PLAIN = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

                  -- Returns a key without escapes, so that two spellings of a key are equal.
                  local function unescaped(key)
                    -- One pass from left to right: an escaped backslash must not start an escape.
                    local parts, from = {}, 1
                    local at = key:find("\\", from, true)
                    while at do
                      parts[#parts + 1] = key:sub(from, at - 1)
                      local kind = key:sub(at + 1, at + 1)
                      from = at + 2
                      if kind == "u" then
                        local code = tonumber(key:sub(at + 2, at + 5), 16)
                        from = at + 6
                        if code >= 0xD800 and code <= 0xDBFF then
                          code = 0x10000 + (code - 0xD800) * 1024 + tonumber(key:sub(from + 2, from + 5), 16) - 0xDC00
                          from = from + 6
                        end
                        parts[#parts + 1] = utf8_of(code)
                      else
                        parts[#parts + 1] = PLAIN[kind] or kind
                      end
                      at = key:find("\\", from, true)
                    end
                    parts[#parts + 1] = key:sub(from)
                    return table.concat(parts)
                  end

                  -- Two parsers may read different values of a repeated key, so repeated keys are refused at any depth.
                  local function key_at(text, from, to, escaped)
                    local key = text:sub(from + 1, to)
                    if escaped then return unescaped(key) end
                    return key
                  end

                  -- Fields with URLs that an engine fetches. A part is an item of one of the lists PARTS, or the value of one of
                  -- ROOT_PARTS; a tool's arguments and schemas may contain any URL.
                  local FETCHED = { url = true, image_url = true, video_url = true, audio_url = true, file_url = true }
                  local WRAPPED = { image_url = true, video_url = true, audio_url = true, input_audio = true, source = true }
                  local ROOT_PARTS = {
                    query = true, queries = true, documents = true, items = true,
                    data_1 = true, data_2 = true, text_1 = true, text_2 = true,
                  }
                  local PARTS = { content = true, output = true, input = true }
                  for name in pairs(ROOT_PARTS) do PARTS[name] = true end

                  local function is_part(depth)
                    if depth < 2 or depth > 7 or container[depth] ~= 1 then return false end
                    if container[depth - 1] == 1 then return depth == 2 and ROOT_PARTS[opened_as[2]] or false end
                    local list = opened_as[depth - 1]
                    return list and PARTS[list] and (depth < 6 or list == "content") or false
                  end

                  -- Returns whether the string under `name` in the object at `depth` is a URL that an engine would fetch.
                  local function names_media(name, depth)
                    if name ~= "url" then return is_part(depth) end
                    return WRAPPED[opened_as[depth]] and is_part(depth - 1) or false
                  end

                  -- Returns whether the URL between two quotes is inline, or has one of the hosts. URL parsers disagree on user
                  -- names, backslashes and escapes, so none of them is allowed before the path.
                  local function may_be_fetched(text, start, after, hosts)
                    if after - start > 6 and text:sub(start + 2, start + 6):lower() == "data:" then return true end
                    if not hosts then return false end
                    local host, rest = text:sub(start + 2, math.min(after - 1, start + 512)):lower():match("^https?://([a-z0-9.-]+)(.*)$")
                    if not host or not hosts[host] then return false end
                    return rest == "" or rest:find("^:%d+$") ~= nil or rest:find("^:?%d*[/?]") ~= nil
                  end

                  -- Returns nil and the findings about the top level, or a refusal {message=, param=}.
                  -- `wanted` is a set of the field names to report on, `media_hosts` the hosts that media may be fetched from.
                  -- Findings: kind, length (bytes of a string, members of an array), value (of a number), odd (index of the
                  -- first member of an array that is not an object) and nested (members of an array that are not numbers).
                  local function check_json(text, wanted, media_hosts)
                    local n = #text
                    local p = ffi.cast("const uint8_t*", text)
                    local kind, length, value, odd, nested = {}, {}, {}, {}, {}
                    local pending -- the last key read; names the value that follows it in an object
                    local seen = {}
                    local depth, i, serial, keys_met, containers = 0, 0, 0, 0, 0
                    local expecting = 1 -- 1 a value, 2 a value or ], 3 a key, 4 a key or }, 5 a comma or an end
                    local field -- the top-level field whose value is being read, if it is wanted
                    local function refuse(what, at)
                      return { message = "The body is not valid JSON: " .. what .. " at byte " .. tostring(at) .. ".", param = nil,
                        code = "invalid_json" }
                    end
                    if n >= 3 and p[0] == 0xEF and p[1] == 0xBB and p[2] == 0xBF then
                      return refuse("a byte order mark", 0)
                    end

                    while true do
                      local byte = p[i]
                      while byte == 0x20 or byte == 0x0A or byte == 0x0D or byte == 0x09 do
                        i = i + 1
                        byte = p[i]
                      end
                      if i >= n then
                        if depth == 0 and expecting == 5 then break end
                        return refuse(n == 0 and "nothing" or "an unexpected end", i)
                      end

                      if expecting <= 2 then
                        local found
                        local start = i
                        if byte == 0x22 then
                          local after, what, at = after_string(p, i + 1)
                          if not after then return refuse(what, at) end
                          i = after
                          found = STRING
                          if depth > 0 and container[depth] == 1 and FETCHED[pending] and names_media(pending, depth)
                            and not may_be_fetched(text, start, after, media_hosts) then
                            return { message = "Media must be part of the request as a data: URL; this URL is not fetched.",
                              code = "media_url_not_allowed", param = pending }
                          end
                        elseif byte == 0x7B or byte == 0x5B then
                          if depth >= MAX_DEPTH then
                            return { message = "The body is nested deeper than " .. MAX_DEPTH .. " levels.", code = "nested_too_deep" }
                          end
                          containers = containers + 1
                          if containers > MAX_CONTAINERS then
                            return { message = "The body has more than " .. MAX_CONTAINERS .. " arrays and objects.",
                              code = "too_many_containers" }
                          end
                          if depth == 0 and byte == 0x5B then
                            return { message = "The body must be a JSON object.", code = "invalid_type" }
                          end
                          if depth == 1 and field then kind[field] = byte == 0x7B and OBJECT or ARRAY end
                          if depth == 2 and field and byte == 0x5B and not odd[field] and container[2] == 2 then
                            odd[field] = members[2]
                          end
                          if depth == 2 and field and container[2] == 2 then nested[field] = (nested[field] or 0) + 1 end
                          opened_as[depth + 1] = depth > 0 and container[depth] == 1 and pending or false
                          depth = depth + 1
                          container[depth] = byte == 0x7B and 1 or 2
                          members[depth] = 0
                          if byte == 0x7B then
                            serial = serial + 1
                            identity[depth] = serial
                          end
                          i = i + 1
                          expecting = byte == 0x7B and 4 or 2
                          goto continue
                        elseif byte == 0x2D or (byte >= 0x30 and byte <= 0x39) then
                          local after, integer, endless = after_number(p, i)
                          if not after then return refuse("a malformed number", i) end
                          if after - i > MAX_NUMBER_BYTES then
                            return { message = "A number in the body is longer than " .. MAX_NUMBER_BYTES .. " characters.",
                              code = "number_too_long", param = field }
                          end
                          found = integer and INTEGER or NUMBER
                          -- Only a long exponent or a long number can exceed the range of a double.
                          if field and depth == 1 or after - i > 18 or not integer then
                            local number = not endless and tonumber(text:sub(start + 1, after))
                            if not number or number == math.huge or number == -math.huge then
                              return { message = "A number in the body is out of range.", code = "number_out_of_range", param = field }
                            end
                            if field and depth == 1 then value[field] = number end
                          end
                          i = after
                        elseif byte == 0x74 and p[i + 1] == 0x72 and p[i + 2] == 0x75 and p[i + 3] == 0x65 then
                          i = i + 4
                          found = BOOLEAN
                        elseif byte == 0x66 and p[i + 1] == 0x61 and p[i + 2] == 0x6C and p[i + 3] == 0x73 and p[i + 4] == 0x65 then
                          i = i + 5
                          found = BOOLEAN
                        elseif byte == 0x6E and p[i + 1] == 0x75 and p[i + 2] == 0x6C and p[i + 3] == 0x6C then
                          i = i + 4
                          found = NULL
                        elseif byte == 0x5D and expecting == 2 then
                          expecting = 5
                          goto close
                        else
                          return refuse("an unexpected character", i)
                        end
                        if depth == 0 then
                          return { message = "The body must be a JSON object.", code = "invalid_type" }
                        end
                        if field then
                          if depth == 1 then
                            kind[field] = found
                            if found == STRING then length[field] = i - start - 2 end
                          elseif depth == 2 and container[2] == 2 then
                            if found == STRING then nested[field] = (nested[field] or 0) + 1 end
                            if not odd[field] then odd[field] = members[2] end
                          end
                        end
                        expecting = 5
                        goto continue
                      end

                      if expecting == 5 then
                        if depth == 0 then return refuse("something after the end", i) end
                        if byte == 0x2C then
                          members[depth] = members[depth] + 1
                          expecting = container[depth] == 1 and 3 or 1
                          i = i + 1
                          goto continue
                        end
                        members[depth] = members[depth] + 1
                        goto close
                      end

                      -- A key, or the end of an empty object.
                      if byte == 0x22 then
                        local start = i + 1
                        local after, escaped, at = after_string(p, start)
                        if not after then return refuse(escaped, at) end
                        keys_met = keys_met + 1
                        if keys_met > MAX_KEYS then
                          return { message = "The body has more than " .. MAX_KEYS .. " keys.", code = "too_many_keys" }
                        end
                        local key = key_at(text, start, after - 1, escaped)
                        local keys = seen[depth]
                        if not keys then
                          keys = {}
                          seen[depth] = keys
                        end
                        if keys[key] == identity[depth] then
                          local name = #key <= 64 and key:match("^[%a_][%w_]*$") or nil
                          return { message = "The body names a key of an object twice.", param = name, code = "duplicate_key" }
                        end
                        keys[key] = identity[depth]
                        pending = key
                        if depth == 1 then field = wanted[key] and key or nil end
                        i = after
                        byte = p[i]
                        while byte == 0x20 or byte == 0x0A or byte == 0x0D or byte == 0x09 do
                          i = i + 1
                          byte = p[i]
                        end
                        if byte ~= 0x3A then return refuse("a key without a colon", i) end
                        i = i + 1
                        expecting = 1
                        goto continue
                      end
                      if expecting ~= 4 then return refuse("no key where one must be", i) end
                      expecting = 5

                      ::close::
                      if byte ~= (container[depth] == 1 and 0x7D or 0x5D) then
                        return refuse("a missing comma or a wrong bracket", i)
                      end
                      if depth == 2 and field then length[field] = members[2] end
                      depth = depth - 1
                      i = i + 1
                      expecting = 5

                      ::continue::
                    end
                    return nil, kind, length, value, odd, nested
                  end

                  -- Reads the text fields of a form (multipart/form-data), and refuses a form that two readers could read differently.
                  -- Must not know HTTP or paths. The router's `openai_api/form.py` has the same rules, and also checks the UTF-8.

                  local MAX_PARTS = 64
                  local MAX_PART_HEAD_BYTES = 2048
                  local MAX_TEXT_BYTES = 65536
                  -- A boundary has at most 70 characters. The patterns below try every space, so a longer text costs its square.
                  local MAX_CONTENT_TYPE_BYTES = 256

                  -- Texts that vLLM's request models read as a boolean, in any case.
                  local BOOLEANS = {}
                  for word in ("true false 1 0 on off t f y n yes no"):gmatch("%w+") do BOOLEANS[word] = true end

                  -- Returns the boundary in a content type; nil if it is no form, or has another parameter.
                  local function form_boundary(content_type)
                    if not content_type or #content_type > MAX_CONTENT_TYPE_BYTES then return nil end
                    local kind, rest = content_type:match("^([^;]-)%s*;%s*(.-)%s*$")
                    if not kind or kind:lower() ~= "multipart/form-data" then return nil end
                    local name, value = rest:match("^(%w+)=(.+)$")
                    if not name or name:lower() ~= "boundary" then return nil end
                    value = value:match('^"(.+)"$') or value
                    return #value <= 70 and value:match("^[%w'()+_,./:=?-]+$") or nil
                  end

                  -- Returns the name of a part, and whether it is a file; nil if its head could be read in another way.
                  local function read_part_head(head)
                    local parameters
                    for line in (head .. "\r\n"):gmatch("(.-)\r\n") do
                      local name = line:match("^([%w-]+):[^\r\n]*$")
                      if not name then return nil end
                      if name:lower() == "content-disposition" then
                        local kind, after = line:match("^[%w-]+:[ \t]*([%w-]+)(.*)$")
                        if parameters or not kind or kind:lower() ~= "form-data" then return nil end
                        parameters = after:match("^.*[^ \t]") or "" -- `(.-)[ \t]*$` would try every space as the last one
                      end
                    end
                    local found, is_file
                    while parameters and parameters ~= "" do
                      local one = parameters:match("^[ \t]*;[ \t]*(.*)$")
                      if not one then return nil end
                      local name, rest = one:match('^name="([%w_.-]+%[?%]?)"(.*)$')
                      if name then
                        if found or #name > 66 or not (name:find("^[%w_.-]+$") or name:find("%[%]$")) then return nil end
                        found = name
                      else
                        local file_name
                        file_name, rest = one:match('^filename="([^"]*)"(.*)$')
                        if not file_name then file_name, rest = one:match('^filename%*=([^;"\\]+)(.*)$') end
                        if not file_name or file_name:gsub("\\\\", ""):find("\\", 1, true) then return nil end
                        is_file = true
                      end
                      parameters = rest
                    end
                    return found, is_file
                  end

                  -- Returns the mistake of a form; or nil, its text fields, the names of its files, and the bytes of all texts.
                  local function read_form(text, boundary)
                    local line = "--" .. boundary
                    if text:sub(1, #line + 2) ~= line .. "\r\n" then return "The form must begin with its boundary." end
                    local delimiter = "\r\n" .. line
                    local texts, files, seen, bytes = {}, {}, {}, 0
                    local at = #line + 1
                    for _ = 1, MAX_PARTS do
                      local head = text:sub(at, at + MAX_PART_HEAD_BYTES - 1)
                      local gap = head:find("\r\n\r\n", 1, true)
                      if not gap then return "The head of a part must end within " .. MAX_PART_HEAD_BYTES .. " bytes." end
                      local name, is_file = read_part_head(head:sub(3, gap - 1))
                      if not name then return "The head of every part must have one content-disposition: form-data with one name." end
                      if seen[name] and name:sub(-2) ~= "[]" then return "The form has a field twice.", name end
                      seen[name] = true
                      local start = at + gap + 3
                      local stop = text:find(delimiter, start, true)
                      if not stop then return "The form must end with its boundary." end
                      if is_file then
                        files[name] = true
                      else
                        if stop - start > MAX_TEXT_BYTES then
                          return "A text of the form may have at most " .. MAX_TEXT_BYTES .. " bytes.", name
                        end
                        texts[name] = text:sub(start, stop - 1)
                        bytes = bytes + stop - start
                      end
                      at = stop + #delimiter
                      local following = text:sub(at, at + 1)
                      if following == "--" then
                        local rest = text:sub(at + 2, at + 4)
                        if rest ~= "" and rest ~= "\r\n" then return "Nothing may follow the end of the form." end
                        return nil, texts, files, bytes
                      end
                      if following ~= "\r\n" then return "A boundary must stand alone in its line." end
                    end
                    return "The form may have at most " .. MAX_PARTS .. " parts."
                  end

                  -- Returns the kind, length and number of every field of `fields`, as check_json does for a JSON body.
                  local function form_kinds(fields, texts, files)
                    local kind, length, value = {}, {}, {}
                    for index = 1, #fields do
                      local field = fields[index]
                      local name, types = field.name, field.types
                      local text = texts[name]
                      if files[name] then
                        kind[name] = "file"
                      elseif text then
                        length[name] = #text
                        if text == "" and field.nullable then
                          kind[name] = "null"
                        elseif types.integer and text:find("^%-?%d+$") then
                          kind[name], value[name] = "integer", tonumber(text)
                        elseif types.number and text:find("^[%d.eE+-]+$") and tonumber(text) then
                          kind[name], value[name] = "number", tonumber(text)
                        elseif types.boolean and BOOLEANS[text:lower()] then
                          kind[name] = "boolean"
                        else
                          kind[name] = "string"
                        end
                      end
                    end
                    return kind, length, value
                  end

                  -- Checks a form. Returns the mistake, or nil and what check_json returns of a JSON body; last the bytes of all texts.
                  local function check_form(text, boundary, fields)
                    local message, texts, files, bytes = read_form(text, boundary)
                    if message then return { message = message, param = type(texts) == "string" and texts or nil, code = "invalid_form" } end
                    local kind, length, value = form_kinds(fields, texts, files)
                    return nil, kind, length, value, {}, {}, bytes
                  end

                  -- Counts the bytes of request bodies that this worker holds for each client and each HTTP/2 connection.
                  -- Must not know paths or read bodies. The renderer writes HELD before this script: the bytes that one client may have
                  -- in flight in the whole process, and the largest body. EDGE_WORKERS is the number of workers that share these bytes.
                  -- In each worker one copy of this script counts HTTP/1 and another counts HTTP/2.
                  local held = {}
                  do
                    local ffi = require("ffi")
                    local workers = tonumber(os.getenv("EDGE_WORKERS") or "") or 1
                    local per_client = math.max(HELD.max_body_bytes, math.floor(HELD.max_client_bytes / workers / 2))
                    local per_connection = 2 * HELD.max_body_bytes
                    local SWEEP_MS = 50

                    local by_client, by_connection = {}, {}
                    local client_of, connection_of = {}, {} -- by serial number of a lease
                    local serial = 0
                    local hopeless_until = {} -- by client: until then a sweep is not repeated

                    local function add(totals, key, bytes)
                      local total = (totals[key] or 0) + bytes
                      totals[key] = total > 0 and total or nil
                    end

                    -- Envoy stores a request's body until the stream ends, and has no callback for a reset stream. The lease ends when
                    -- the garbage collector frees the stream's handle.
                    local Lease = ffi.metatype("struct { double serial, bytes; }", {
                      __gc = function(lease)
                        local client, connection = client_of[lease.serial], connection_of[lease.serial]
                        if client then add(by_client, client, -lease.bytes) end
                        if connection then add(by_connection, connection, -lease.bytes) end
                        client_of[lease.serial], connection_of[lease.serial] = nil, nil
                      end,
                    })
                    local leases = setmetatable({}, { __mode = "k" })

                    local function over(client, connection, bytes)
                      if (by_client[client] or 0) + bytes > per_client then return "client" end
                      if connection and (by_connection[connection] or 0) + bytes > per_connection then return "connection" end
                    end

                    -- Reserve `bytes` for a request. Returns nil, or which limit is exceeded: "client" or "connection".
                    function held.take(handle, client, connection, bytes)
                      local who = over(client, connection, bytes)
                      if who then
                        local now = handle:timestamp()
                        if now < (hopeless_until[client] or 0) then return who end
                        -- One pass runs the handle's finalizer, one frees the handle, one frees the lease.
                        for _ = 1, 3 do
                          collectgarbage()
                          who = over(client, connection, bytes)
                          if not who then break end
                        end
                        if who then
                          hopeless_until[client] = now + SWEEP_MS
                          return who
                        end
                        hopeless_until[client] = nil
                      end
                      serial = serial + 1
                      client_of[serial], connection_of[serial] = client, connection
                      add(by_client, client, bytes)
                      if connection then add(by_connection, connection, bytes) end
                      leases[handle] = Lease(serial, bytes)
                    end

                    -- Set a lease to the size of the received body; 0 for a refused request.
                    function held.settle(handle, bytes)
                      local lease = leases[handle]
                      if not lease then return end
                      local more = bytes - lease.bytes
                      add(by_client, client_of[lease.serial], more)
                      if connection_of[lease.serial] then add(by_connection, connection_of[lease.serial], more) end
                      lease.bytes = bytes
                    end
                  end

                  -- Admits a request body, or refuses it and names the invalid field. Must not know clients' limits or choose
                  -- backends. The renderer writes RULES, QUERIES, MEDIA_HOSTS and BUDGETS before this script.

                  local KINDS = {
                    ["401"] = "authentication_error", ["429"] = "rate_limit_error", ["500"] = "server_error",
                  }
                  -- Anthropic's error names, where they differ.
                  local ANTHROPIC_KINDS = { ["413"] = "request_too_large", ["500"] = "api_error" }

                  local function is_anthropic(path)
                    return path ~= nil and path:find("^/v1/messages") ~= nil
                  end

                  local function quoted(text)
                    return '"' .. text:gsub('[\\"]', "\\%0") .. '"'
                  end

                  -- Returns an error body in the form of the path's API.
                  local function error_body(headers, status, kind, code, param, message)
                    if is_anthropic(headers:get(":path")) then
                      return '{"type":"error","error":{"type":"' .. (ANTHROPIC_KINDS[status] or kind) .. '","message":'
                        .. quoted(message) .. '},"request_id":' .. quoted(headers:get("x-request-id") or "") .. "}"
                    end
                    return '{"error":{"message":' .. quoted(message) .. ',"type":"' .. kind .. '","param":'
                      .. (param and quoted(param) or "null") .. ',"code":"' .. code .. '"}}'
                  end

                  local function refuse(handle, status, code, param, message)
                    local kind = KINDS[status] or "invalid_request_error"
                    held.settle(handle, 0)
                    local metadata = handle:streamInfo():dynamicMetadata()
                    metadata:set("edge", "refused", true)
                    metadata:set("edge", "code", code)
                    if param then metadata:set("edge", "param", param) end
                    local answer = { [":status"] = status, ["content-type"] = "application/json" }
                    if status == "401" then answer["www-authenticate"] = 'Bearer realm="llm"' end
                    if status == "429" then answer["retry-after"] = "1" end
                    if is_anthropic(handle:headers():get(":path")) then answer["request-id"] = handle:headers():get("x-request-id") end
                    handle:respond(answer, error_body(handle:headers(), status, kind, code, param, message))
                  end

                  -- Returns the first mistake in the fields, as code, field and message.
                  local function first_wrong_field(rule, kind, length, value, odd)
                    for index = 1, #rule.fields do
                      local field = rule.fields[index]
                      local name = field.name
                      local found = kind[name]
                      if not found then
                        if field.required then
                          return "missing_required_parameter", name, "The parameter '" .. name .. "' is required."
                        end
                      elseif found == "null" and field.nullable then -- the same as leaving it out
                      elseif not field.types[found] then
                        return "invalid_type", name, "The parameter '" .. name .. "' must be " .. field.types_said .. "."
                      else
                        local number = value[name]
                        if number and field.minimum and number < field.minimum then
                          return "value_below_minimum", name, "The parameter '" .. name .. "' must be at least " .. field.minimum .. "."
                        end
                        if number and field.maximum and number > field.maximum then
                          return "value_above_maximum", name, "The parameter '" .. name .. "' must be at most " .. field.maximum .. "."
                        end
                        if found == "string" and field.min_length and length[name] < field.min_length then
                          return "empty_string", name, "The parameter '" .. name .. "' must not be empty."
                        end
                        if found == "string" and field.max_length and length[name] > field.max_length then
                          return "string_too_long", name,
                            "The parameter '" .. name .. "' may have at most " .. field.max_length .. " bytes."
                        end
                        if found == "array" then
                          if field.min_items and length[name] < field.min_items then
                            return "empty_array", name, "The parameter '" .. name .. "' must not be empty."
                          end
                          if field.max_items and length[name] > field.max_items then
                            return "array_too_long", name,
                              "The parameter '" .. name .. "' may have at most " .. field.max_items .. " items."
                          end
                          if field.items == "object" and odd[name] then
                            return "invalid_type", name .. "[" .. odd[name] .. "]",
                              "Every item of '" .. name .. "' must be an object."
                          end
                        end
                      end
                    end
                    if rule.any_of then
                      for index = 1, #rule.any_of do
                        if kind[rule.any_of[index]] then return nil end
                      end
                      return "missing_required_parameter", rule.any_of[1],
                        "One of the parameters '" .. table.concat(rule.any_of, "', '") .. "' is required."
                    end
                    return nil
                  end

                  -- Lua writes numbers from 1e14 with an exponent, which the rate limit service does not read.
                  local function digits(number)
                    return ("%.0f"):format(number)
                  end

                  -- Returns the tokens to reserve: the prompt by its size (audio does not count), and the longest completion for every
                  -- prompt and every choice. If a body has several limits, the largest counts, whichever the engine reads. If it has
                  -- none, the second result is the limit that the router shall write into the body.
                  local function tokens_to_reserve(rule, bytes, value, nested)
                    local prompt = math.ceil(bytes / BUDGETS.prompt_bytes_per_token)
                    if not rule.output_tokens then return prompt end
                    local output
                    for index = 1, #rule.output_tokens do
                      local limit = value[rule.output_tokens[index]]
                      if limit and (not output or limit > output) then output = limit end
                    end
                    local answers = math.max(value.n or 1, value.best_of or 1) * math.max(nested.prompt or 1, 1)
                    local assumed = not output and BUDGETS.assumed_max_tokens or nil
                    return prompt + (output or assumed) * answers, assumed
                  end

                  -- Returns the mistake in a body as code, field and message; or three nils, the tokens to reserve and the limit that
                  -- they assume.
                  local function judge(rule, text, boundary)
                    local wrong, kind, length, value, odd, nested, bytes
                    if boundary then
                      wrong, kind, length, value, odd, nested, bytes = check_form(text, boundary, rule.fields)
                    else
                      wrong, kind, length, value, odd, nested = check_json(text, rule.wanted, MEDIA_HOSTS)
                      bytes = #text
                    end
                    if wrong then return wrong.code, wrong.param, wrong.message end
                    local code, param, message = first_wrong_field(rule, kind, length, value, odd)
                    if code then return code, param, message end
                    if not BUDGETS then return nil end
                    return nil, nil, nil, tokens_to_reserve(rule, bytes, value, nested)
                  end

                  local function is_json(content_type)
                    if not content_type then return false end
                    if content_type == "application/json" then return true end
                    local rest = content_type:lower():match("^application/json%s*(.*)$")
                    if not rest or rest:find("^[^;]") then return false end
                    for parameter in rest:gmatch("[^;]+") do
                      if not parameter:find("^%s*$") and not parameter:find('^%s*charset="?utf%-?8"?%s*$') then return false end
                    end
                    return true
                  end

                  -- Returns the parameters of a query that a path knows. Engines ignore others, and an unknown one may be a pasted key.
                  local function known_parameters(query, known)
                    local kept = {}
                    for parameter in query:gmatch("[^&]+") do
                      if known and known[parameter:match("^[^=]*")] then kept[#kept + 1] = parameter end
                    end
                    return table.concat(kept, "&")
                  end

                  local MAX_PATH_BYTES = #"/v1/models/" + 256

                  function envoy_on_request(handle)
                    local headers = handle:headers()
                    local path = headers:get(":path")
                    local question = path:find("?", 1, true)
                    local query = question and path:sub(question + 1)
                    if question then path = path:sub(1, question - 1) end
                    local rule = RULES[path]
                    local stored = not rule and path:match("^/v1/responses/[%w_-]+(.*)$")
                    if not rule and not stored and not path:find("^/v1/models") then return end -- a route that only refuses
                    if stored and #path - #stored > #"/v1/responses/" + 128 then
                      return refuse(handle, "400", "string_too_long", "response_id", "A response's id may have at most 128 bytes.")
                    end
                    if #path > MAX_PATH_BYTES then
                      return refuse(handle, "400", "string_too_long", "model", "A model's name may have at most 256 bytes.")
                    end

                    local client = headers:get("x-client-id")
                    if not client or #client > 128 or not client:find("^[%w][%w._@:|/-]*$") then
                      return refuse(handle, "401", "invalid_client", nil, "The credential names no usable client.")
                    end
                    -- Envoy joins several Host headers with commas; a valid host has neither a comma nor a user part.
                    local host = headers:get(":authority") or ""
                    if not host:find("^[%w._-]+$") and not host:find("^%[[%x:.]+%]$") then
                      return refuse(handle, "400", "invalid_host", nil, "The request must name exactly one host.")
                    end
                    local info = handle:streamInfo()
                    local protocol = info:protocol()
                    if protocol == "HTTP/1.0" then
                      return refuse(handle, "426", "http_version_not_supported", nil, "Use HTTP/1.1 or HTTP/2.")
                    end
                    local known = stored and QUERIES["/v1/responses/{id}" .. stored] or QUERIES[path]
                    local kept = query and known_parameters(query, known)
                    if kept ~= query then headers:replace(":path", kept == "" and path or path .. "?" .. kept) end
                    local length = headers:get("content-length")
                    if not rule or headers:get(":method") ~= "POST" then
                      -- No filter reads such a body, so its size would have no limit.
                      if length and length ~= "0" or headers:get("transfer-encoding") or handle:body() then
                        return refuse(handle, "400", "unexpected_body", nil, "This method takes no body.")
                      end
                      return
                    end

                    local content_type = headers:get("content-type")
                    local boundary = rule.form and form_boundary(content_type) or nil
                    if rule.form and not boundary then
                      return refuse(handle, "415", "unsupported_content_type", nil,
                        "The content-type must be multipart/form-data with a boundary.")
                    end
                    if not rule.form and not is_json(content_type) then
                      return refuse(handle, "415", "unsupported_content_type", nil, "The content-type must be application/json.")
                    end
                    local coding = headers:get("content-encoding")
                    if coding and coding:lower() ~= "identity" then
                      return refuse(handle, "415", "unsupported_content_encoding", nil, "The body must not be compressed.")
                    end
                    local announced = tonumber(length or 0)
                    if announced and announced > rule.max_bytes then
                      return refuse(handle, "413", "request_too_large", nil,
                        "The body may have at most " .. rule.max_bytes .. " bytes.")
                    end

                    -- An HTTP/2 connection carries many concurrent bodies, an HTTP/1 connection only one.
                    local connection = protocol == "HTTP/2" and info:downstreamDirectRemoteAddress() or nil
                    local who = held.take(handle, client, connection, length and announced or rule.max_bytes)
                    if who then
                      return refuse(handle, "429", "too_many_bytes_in_flight", nil,
                        "This " .. who .. " has too many bytes of request bodies in flight. Retry when a request has ended.")
                    end
                    local body = handle:body()
                    local bytes = body and body:length() or 0
                    held.settle(handle, bytes)
                    if bytes == 0 then
                      return refuse(handle, "400", rule.form and "invalid_form" or "invalid_json", nil,
                        "The body is empty; it must be " .. (rule.form and "a form." or "a JSON object."))
                    end
                    -- An error in this script must refuse the request, because Envoy would continue without the script.
                    local sound, code, param, message, tokens, assumed = pcall(judge, rule, body:getBytes(0, bytes), boundary)
                    if not sound then
                      handle:logErr("admission failed: " .. tostring(code))
                      return refuse(handle, "500", "edge_error", nil, "The edge could not check the request.")
                    end
                    if code then return refuse(handle, "400", code, param, message) end
                    if tokens then
                      local metadata = handle:streamInfo():dynamicMetadata()
                      metadata:set("edge", "reserve", digits(tokens))
                      if assumed then metadata:set("edge", "assumed", digits(assumed)) end
                      if is_anthropic(path) then metadata:set("edge", "api", "anthropic") end
                    end
                  end

                  -- With budgets: read the tokens that a response used, to settle the reservation.
                  if BUDGETS then
                    local function used(report)
                      local prompt, completion = (report or ""):match("^prompt=(%d+),completion=(%d+)$")
                      return prompt and digits(tonumber(prompt) + tonumber(completion))
                    end

                    function envoy_on_response(handle)
                      local edge = handle:streamInfo():dynamicMetadata():get("edge")
                      if not edge or not edge.reserve then return end
                      local headers = handle:headers()
                      local status = headers:get(":status")
                      if status == "429" and not headers:get("x-route-attempts") then return end -- refused: nothing is held
                      local total = used(headers:get("x-route-tokens"))
                      -- A request is free only if no engine worked on it: it was refused, or reached no engine.
                      local unsent = headers:get("x-edge-unsent")
                      if unsent then headers:remove("x-edge-unsent") end
                      if not total and (unsent or headers:get("x-route-attempts") == "0" or (status:find("^4") and status ~= "408")) then
                        total = "0"
                      end
                      if not total then
                        local trailers = handle:trailers() -- the body passes meanwhile
                        total = trailers and used(trailers:get("x-route-tokens"))
                      end
                      -- If the usage is unknown, the whole reservation stays charged.
                      if total then handle:streamInfo():dynamicMetadata():set("edge", "settle", total) end
                    end
                  end
{{- if .Values.budgets.enabled }}
          - name: envoy.filters.http.ratelimit
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: edge
              stat_prefix: budget
              timeout: 0.25s
              failure_mode_deny: false
              status_on_error:
                code: ServiceUnavailable
              disable_x_envoy_ratelimited_header: true
              rate_limit_service:
                transport_api_version: V3
                grpc_service:
                  envoy_grpc:
                    cluster_name: rate_limit_service
              rate_limits:
              - actions:
                - request_headers:
                    header_name: x-client-id
                    descriptor_key: client
                - request_headers:
                    header_name: x-request-id
                    descriptor_key: request
                - metadata:
                    source: DYNAMIC
                    descriptor_key: reserve
                    metadata_key:
                      key: edge
                      path:
                      - key: reserve
                - metadata:
                    source: DYNAMIC
                    descriptor_key: assumed
                    metadata_key:
                      key: edge
                      path:
                      - key: assumed
                    skip_if_absent: true
                - metadata:
                    source: DYNAMIC
                    descriptor_key: api
                    metadata_key:
                      key: edge
                      path:
                      - key: api
                    default_value: openai
              - apply_on_stream_done: true
                actions:
                - request_headers:
                    header_name: x-client-id
                    descriptor_key: client
                - request_headers:
                    header_name: x-request-id
                    descriptor_key: request
                - metadata:
                    source: DYNAMIC
                    descriptor_key: settle
                    metadata_key:
                      key: edge
                      path:
                      - key: settle
{{- end }}
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
    - name: clients-http2
{{- if .Values.tls.enabled }}
      transport_socket_connect_timeout: 10s
      filter_chain_match:
        transport_protocol: tls
        application_protocols:
        - h2
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols:
            - h2
            tls_params:
              tls_minimum_protocol_version: TLSv1_2
              tls_maximum_protocol_version: TLSv1_3
              cipher_suites:
              - ECDHE-ECDSA-AES128-GCM-SHA256
              - ECDHE-RSA-AES128-GCM-SHA256
              - ECDHE-ECDSA-AES256-GCM-SHA384
              - ECDHE-RSA-AES256-GCM-SHA384
              - ECDHE-ECDSA-CHACHA20-POLY1305
              - ECDHE-RSA-CHACHA20-POLY1305
              ecdh_curves:
              - X25519
              - P-256
            tls_certificate_sds_secret_configs:
            - name: edge_certificate
              sds_config:
                resource_api_version: V3
                path_config_source:
                  path: /etc/edge/edge_certificate.yaml
{{- end }}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          codec_type: HTTP2
          server_name: edge-gateway
          rds:
            route_config_name: edge_routes
            config_source:
              resource_api_version: V3
              path_config_source:
                path: /etc/edge-routes/routes.yaml
                watched_directory:
                  path: /etc/edge-routes
          use_remote_address: true
          xff_num_trusted_hops: 0
          early_header_mutation_extensions:
          - name: forget_what_clients_may_not_say
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
              mutations:
              - remove: x-client-id
              - remove_on_match:
                  key_matcher:
                    prefix: x-edge-
                    ignore_case: true
              - remove: x-request-id
              - remove: traceparent
              - remove: tracestate
              - remove: baggage
              - remove: te
              - remove_on_match:
                  key_matcher:
                    prefix: x-route-
                    ignore_case: true
              - remove_on_match:
                  key_matcher:
                    prefix: x-envoy-
                    ignore_case: true
              - remove_on_match:
                  key_matcher:
                    prefix: x-ratelimit-
                    ignore_case: true
              - remove_on_match:
                  key_matcher:
                    prefix: x-forwarded-
                    ignore_case: true
              - remove: forwarded
              - remove: x-real-ip
          generate_request_id: true
          preserve_external_request_id: false
          always_set_request_id_in_response: true
          request_id_extension:
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig
              pack_trace_reason: false
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: KEEP_UNCHANGED
          strip_any_host_port: true
          max_request_headers_kb: 16
          common_http_protocol_options:
            headers_with_underscores_action: DROP_HEADER
            max_headers_count: 60
            idle_timeout: 10s
          http_protocol_options:
            accept_http_10: true
            default_host_for_http_10: localhost
          http2_protocol_options:
            max_concurrent_streams: 100
            initial_stream_window_size: 65536
            initial_connection_window_size: 1048576
          request_headers_timeout: 10s
          request_timeout: 60s
          stream_idle_timeout: 630s
          stream_flush_timeout: 120s
          drain_timeout: 5s
          delayed_close_timeout: 1s
          tracing:
            random_sampling:
              value: 100.0
            client_sampling:
              value: 0
            overall_sampling:
              value: 100
            spawn_upstream_span: false
            max_path_tag_length: 1
            custom_tags:
            - tag: request_id
              request_header:
                name: x-request-id
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                '@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: edge-gateway
                grpc_service:
                  envoy_grpc:
                    cluster_name: trace_collector
                  timeout: 1s
          access_log:
          - name: envoy.access_loggers.stdout
            filter:
              metadata_filter:
                matcher:
                  filter: edge
                  path:
                  - key: quiet
                  value:
                    bool_match: false
                match_if_key_not_found: true
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format:
                json_format:
                  time: '%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%'
                  level: info
                  service: edge-gateway
                  event: request
                  request_id: '%RESP(X-REQUEST-ID)%'
                  trace_id: '%TRACE_ID%'
                  client_id: '%REQ(X-CLIENT-ID)%'
                  method: '%REQ(:METHOD)%'
                  path: '%ROUTE_NAME%'
                  protocol: '%PROTOCOL%'
                  code: '%RESPONSE_CODE%'
                  flags: '%RESPONSE_FLAGS%'
                  details: '%RESPONSE_CODE_DETAILS%'
                  refused_param: '%DYNAMIC_METADATA(edge:param)%'
                  refused_code: '%DYNAMIC_METADATA(edge:code)%'
                  upstream: '%UPSTREAM_HOST%'
                  attempts: '%UPSTREAM_REQUEST_ATTEMPT_COUNT%'
                  backend: '%RESP(X-ROUTE-BACKEND)%'
                  rule: '%RESP(X-ROUTE-RULE)%'
                  bytes_received: '%BYTES_RECEIVED%'
                  bytes_sent: '%BYTES_SENT%'
                  request_received_ms: '%COMMON_DURATION(DS_RX_BEG:DS_RX_END:ms)%'
                  forwarded_ms: '%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ms)%'
                  first_byte_ms: '%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:ms)%'
                  duration_ms: '%DURATION%'
                  tokens: '%TRAILER(X-ROUTE-TOKENS)%'
                  tokens_known_at_start: '%DYNAMIC_METADATA(edge:tokens)%'
                  tokens_reserved: '%DYNAMIC_METADATA(edge:reserve)%'
                  peer: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'
          local_reply_config: *id004
          http_filters: *id005
{{- if not .Values.tls.enabled }}
      filter_chain_match:
        application_protocols:
        - h2c
{{- end }}
  - name: telemetry
    address:
      socket_address:
        address: 0.0.0.0
        port_value: 9902
        ipv4_compat: false
    traffic_direction: OUTBOUND
    ignore_global_conn_limit: true
    bypass_overload_manager: true
    per_connection_buffer_limit_bytes: 32768
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: telemetry
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          request_headers_timeout: 5s
          request_timeout: 5s
          route_config:
            name: telemetry_routes
            virtual_hosts:
            - name: telemetry
              domains:
              - '*'
              routes:
              - match:
                  path: /stats/prometheus
                  headers:
                  - name: :method
                    string_match:
                      exact: GET
                route:
                  cluster: admin
                  timeout: 10s
              - match:
                  path: /ready
                  headers:
                  - name: :method
                    string_match:
                      exact: GET
                route:
                  cluster: admin
                  timeout: 2s
              - match:
                  prefix: /
                direct_response:
                  status: 404
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: router
    cluster_type:
      name: envoy.cluster.dns
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
        dns_refresh_rate: 2s
    connect_timeout: 1s
    lb_policy: LEAST_REQUEST
    health_checks:
    - timeout: 1s
      interval: 1s
      no_traffic_interval: 1s
      interval_jitter_percent: 10
      unhealthy_threshold: 2
      healthy_threshold: 1
      http_health_check:
        path: /readyz
    outlier_detection:
      split_external_local_origin_errors: true
      consecutive_local_origin_failure: 3
      consecutive_5xx: 1000000
      enforcing_consecutive_5xx: 0
      enforcing_consecutive_gateway_failure: 0
      enforcing_success_rate: 0
      enforcing_local_origin_success_rate: 0
      interval: 1s
      base_ejection_time: 2s
      max_ejection_percent: 50
    common_lb_config:
      healthy_panic_threshold:
        value: 1
      update_merge_window: 0s
    circuit_breakers:
      thresholds:
      - max_connections: 4096
        max_pending_requests: 1024
        max_requests: 4096
        retry_budget:
          budget_percent:
            value: 60
          min_retry_concurrency: 64
    per_connection_buffer_limit_bytes: 32768
    upstream_connection_options:
      tcp_keepalive:
        keepalive_time: 4
        keepalive_interval: 2
        keepalive_probes: 3
    upstream_bind_config:
      socket_options:
      - level: 6
        name: 18
        int_value: 10000
        description: TCP_USER_TIMEOUT
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options:
          idle_timeout: 2s
        explicit_http_config:
          http_protocol_options:
            enable_trailers: true
    load_assignment:
      cluster_name: router
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address:
                address: router-service-headless.llm.svc.cluster.local
                port_value: 8000
  - name: admin
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: admin
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address:
                address: 127.0.0.1
                port_value: 9901
{{- if .Values.budgets.enabled }}
  - name: rate_limit_service
    type: STRICT_DNS
    connect_timeout: 0.25s
    lb_policy: ROUND_ROBIN
    load_assignment:
      cluster_name: rate_limit_service
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address:
                address: rate-limit-service.llm.svc.cluster.local
                port_value: 8081
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            connection_keepalive:
              interval: 10s
              timeout: 2s
{{- end }}
  - name: trace_collector
    connect_timeout: 1s
    type: STRICT_DNS
    load_assignment:
      cluster_name: trace_collector
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address:
                address: alloy.observability.svc.cluster.local
                port_value: 4317
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {}

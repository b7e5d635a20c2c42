output "bucket_names" {
  description = "Bucket by purpose: logs, traces."
  value       = { logs = module.logs.name, traces = module.traces.name }
}

output "bucket_arns" {
  description = "Bucket ARN by purpose: logs, traces."
  value       = { logs = module.logs.arn, traces = module.traces.arn }
}

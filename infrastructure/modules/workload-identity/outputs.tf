output "role_names" {
  description = "IAM role by workload."
  value       = { for workload, role in aws_iam_role.this : workload => role.name }
}

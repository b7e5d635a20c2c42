output "public" {
  description = "Whether the endpoint answers on the internet at all."
  value       = local.public
}

output "cidrs" {
  description = "Who may reach the public side; null when there is none, so no default of AWS applies."
  value       = local.public ? var.api_access_cidrs : null
}

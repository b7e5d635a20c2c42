output "name" {
  description = "Name of the node group."
  value       = var.name

  # Known only when the group exists, so what is built on it waits.
  depends_on = [module.nodes]
}

output "arn" {
  description = "ARN of the node group."
  value       = module.nodes.node_group_arn
}

output "role_name" {
  description = "IAM role of the nodes."
  value       = module.nodes.iam_role_name
}

output "size" {
  description = "The size given, for the night schedule."
  value       = var.size
}

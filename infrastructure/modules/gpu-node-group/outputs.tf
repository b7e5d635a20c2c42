output "name" {
  description = "Name of the node group, with its suffix."
  value       = split(":", module.nodes.node_group_id)[1]
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
  description = "The configured size, for the night schedule."
  value       = var.size
}

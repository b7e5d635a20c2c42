output "private" {
  description = "Subnet ranges for nodes and pods, one per zone."
  value       = local.private
}

output "public" {
  description = "Subnet ranges for NAT gateways and public load balancers, one per zone."
  value       = local.public
}

output "intra" {
  description = "Subnet ranges without a route out: control-plane interfaces and VPC endpoints, one per zone."
  value       = local.intra
}

output "pods_per_private_subnet" {
  description = "Addresses of one private subnet in /28 blocks of 16, AWS's five reserved ones taken off."
  value       = floor((pow(2, 32 - local.prefix_length - 2) - 5) / 16) * 16
}

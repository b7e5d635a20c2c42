output "vpc_id" {
  description = "The VPC."
  value       = module.vpc.vpc_id
}

output "vpc_cidr" {
  description = "Its IPv4 range."
  value       = module.vpc.vpc_cidr_block
}

output "private_subnet_ids" {
  description = "Subnets of nodes, pods and internal load balancers."
  value       = module.vpc.private_subnets
}

output "intra_subnet_ids" {
  description = "Subnets of the control plane's interfaces."
  value       = module.vpc.intra_subnets
}

output "public_subnet_ids" {
  description = "Subnets of public load balancers and NAT."
  value       = module.vpc.public_subnets
}

output "region" {
  description = "Region the network is in."
  value       = data.aws_region.current.region
}

output "name" {
  description = "Name of the cluster, known once its network add-on has its settings: node groups wait for it."
  value       = module.eks.cluster_name
  depends_on  = [aws_eks_addon.vpc_cni]
}

output "endpoint" {
  description = "URL of the API endpoint (private unless api_access_cidrs is set)."
  value       = module.eks.cluster_endpoint
}

output "version" {
  description = "Kubernetes version of the control plane."
  value       = module.eks.cluster_version
}

output "service_cidr" {
  description = "IPv4 range of Services."
  value       = module.eks.cluster_service_cidr
}

output "node_security_group_id" {
  description = "Security group of the nodes, tagged for the cluster."
  value       = module.eks.node_security_group_id
}

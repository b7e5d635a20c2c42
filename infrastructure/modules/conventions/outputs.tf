output "name" {
  description = "Name of the environment's cluster and prefix of everything else."
  value       = local.name
}

output "tags" {
  description = "Tags every resource of the environment carries."
  value       = local.base_tags
}

output "component_tags" {
  description = "Tags by component: the base tags and the component's own."
  value = {
    for component in ["network", "cluster", "system-nodes", "gpu-nodes", "models", "telemetry", "registry", "access", "controllers", "volumes"] :
    component => merge(local.base_tags, { (local.contract.tags.component) = component })
  }
}

output "pools" {
  description = "Per node pool: labels, taints as EKS wants them, node selector and tolerations as Kubernetes wants them."
  value       = local.pools
}

output "workloads" {
  description = "Workloads that need AWS rights: namespace, service account, bucket, access."
  value       = local.contract.workloads
}

output "bucket_names" {
  description = "Bucket name by purpose: models, logs, traces."
  value       = local.bucket_names
}

output "storage_class" {
  description = "Default storage class of the cluster."
  value       = local.contract.storage_class
}

output "image_repositories" {
  description = "Names of the ECR repositories."
  value       = [for image in local.contract.images : "${local.name}/${image}"]
}

output "image_prefix" {
  description = "Path between the registry's host and an image's name: the environment's, so that two share an account."
  value       = local.name
}

output "controllers" {
  description = "Controllers that act on AWS for the cluster: namespace and service account."
  value       = local.contract.controllers
}

output "environment_tag" {
  description = "Key of the tag that names the environment."
  value       = local.contract.tags.environment
}

output "queue_name" {
  description = "Queue of spot interruptions, for the chart's settings.interruptionQueue."
  value       = module.karpenter.queue_name
}

output "manifests" {
  description = "The GPU node class and node pool, to apply once the chart is installed."
  value       = join("---\n", [yamlencode(local.node_class), yamlencode(local.node_pool)])
}

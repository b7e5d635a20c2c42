output "system" {
  description = "System node groups by zone letter: zone_index, instance_types, capacity_type, max_pods, size."
  value       = local.groups.system
}

output "gpu" {
  description = "GPU node groups by zone letter, with the same fields."
  value       = local.groups.gpu
}

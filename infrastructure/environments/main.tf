# One environment. Module calls only: the environments differ in their .tfvars files and in ../node-groups.yaml.

data "aws_caller_identity" "current" {}

module "conventions" {
  source = "../modules/conventions"

  environment = var.environment
  account_id  = data.aws_caller_identity.current.account_id
}

module "node_plan" {
  source = "../modules/node-plan"

  environment  = var.environment
  zone_letters = var.zone_letters
}

module "network" {
  source = "../modules/network"

  name                     = module.conventions.name
  vpc_cidr                 = var.vpc_cidr
  availability_zones       = [for letter in var.zone_letters : "${var.region}${letter}"]
  nat_strategy             = var.nat_strategy
  interface_endpoint_zones = var.interface_endpoint_zones
  tags                     = module.conventions.component_tags.network
}

module "access_host" {
  source = "../modules/access-host"

  name      = module.conventions.name
  vpc_id    = module.network.vpc_id
  vpc_cidr  = module.network.vpc_cidr
  subnet_id = module.network.private_subnet_ids[0]
  tags      = module.conventions.component_tags.access
}

module "cluster" {
  source = "../modules/cluster"

  name                          = module.conventions.name
  kubernetes_version            = var.kubernetes_version
  vpc_id                        = module.network.vpc_id
  private_subnet_ids            = module.network.private_subnet_ids
  intra_subnet_ids              = module.network.intra_subnet_ids
  api_access_cidrs              = var.api_access_cidrs
  api_client_security_group_ids = { access-host = module.access_host.security_group_id }
  access_entries                = var.access_entries
  addon_versions                = var.addon_versions
  volume_tags                   = module.conventions.component_tags.volumes
  deletion_protection           = var.deletion_protection
  tags                          = module.conventions.component_tags.cluster
}

module "system_nodes" {
  source   = "../modules/system-node-group"
  for_each = module.node_plan.system

  name                 = "${module.conventions.name}-system-${each.key}"
  cluster_name         = module.cluster.name
  cluster_service_cidr = module.cluster.service_cidr
  security_group_id    = module.cluster.node_security_group_id
  kubernetes_version   = coalesce(var.node_kubernetes_version, var.kubernetes_version)
  subnet_id            = module.network.private_subnet_ids[each.value.zone_index]
  instance_types       = each.value.instance_types
  capacity_type        = each.value.capacity_type
  size                 = each.value.size
  max_pods             = each.value.max_pods
  ami_release_version  = var.ami_release_versions.system
  labels               = module.conventions.pools.system.labels
  taints               = module.conventions.pools.system.taints
  tags                 = module.conventions.component_tags["system-nodes"]
}

module "gpu_nodes" {
  source   = "../modules/gpu-node-group"
  for_each = module.node_plan.gpu

  name                    = "${module.conventions.name}-gpu-${each.key}"
  cluster_name            = module.cluster.name
  cluster_service_cidr    = module.cluster.service_cidr
  security_group_id       = module.cluster.node_security_group_id
  kubernetes_version      = coalesce(var.node_kubernetes_version, var.kubernetes_version)
  subnet_id               = module.network.private_subnet_ids[each.value.zone_index]
  instance_types          = each.value.instance_types
  capacity_type           = each.value.capacity_type
  capacity_reservation_id = var.capacity_reservation_id
  size                    = each.value.size
  max_pods                = each.value.max_pods
  ami_release_version     = var.ami_release_versions.gpu
  labels                  = module.conventions.pools.gpu.labels
  taints                  = module.conventions.pools.gpu.taints
  tags                    = module.conventions.component_tags["gpu-nodes"]
}

module "night_schedule" {
  source = "../modules/night-schedule"
  count  = var.night_schedule == null ? 0 : 1

  cluster_name = module.cluster.name
  node_groups = merge(
    { for zone, group in module.gpu_nodes : "gpu-${zone}" => merge({ name = group.name, arn = group.arn }, group.size) },
    { for zone, group in module.system_nodes : "system-${zone}" => merge({ name = group.name, arn = group.arn }, group.size) },
  )
  off_cron = var.night_schedule.off_cron
  on_cron  = var.night_schedule.on_cron
  timezone = var.night_schedule.timezone
  tags     = module.conventions.tags
}

module "model_store" {
  source = "../modules/model-store"

  bucket_name   = module.conventions.bucket_names.models
  force_destroy = var.force_destroy
  tags          = module.conventions.component_tags.models
}

module "telemetry_store" {
  source = "../modules/telemetry-store"

  logs_bucket_name   = module.conventions.bucket_names.logs
  traces_bucket_name = module.conventions.bucket_names.traces
  force_destroy      = var.force_destroy
  tags               = module.conventions.component_tags.telemetry
}

module "workload_identity" {
  source = "../modules/workload-identity"

  cluster_name = module.cluster.name
  workloads    = module.conventions.workloads
  bucket_arns  = merge({ models = module.model_store.bucket_arn }, module.telemetry_store.bucket_arns)
  tags         = module.conventions.tags
}

module "controllers" {
  source = "../modules/controllers"

  cluster_name    = module.cluster.name
  accounts        = module.conventions.controllers
  node_autoscaler = var.node_autoscaler
  tags            = module.conventions.component_tags.controllers
}

module "registry" {
  source = "../modules/registry"

  repositories = module.conventions.image_repositories
  force_delete = var.force_destroy
  tags         = module.conventions.component_tags.registry
}

module "budget" {
  source = "../modules/budget"

  name              = module.conventions.name
  environment       = var.environment
  environment_tag   = module.conventions.environment_tag
  monthly_limit_usd = var.monthly_limit_usd
  alert_emails      = var.alert_emails
  tags              = module.conventions.tags
}

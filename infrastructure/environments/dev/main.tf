# Module calls only: what differs between environments is in variables.tf.

data "aws_caller_identity" "current" {}

module "conventions" {
  source = "../../modules/conventions"

  environment = var.environment
  account_id  = data.aws_caller_identity.current.account_id
}

module "network" {
  source = "../../modules/network"

  name                     = module.conventions.name
  vpc_cidr                 = var.vpc_cidr
  availability_zones       = var.availability_zones
  nat_strategy             = var.nat_strategy
  interface_endpoint_zones = var.interface_endpoint_zones
  tags                     = module.conventions.component_tags.network
}

module "access_host" {
  source = "../../modules/access-host"

  name      = module.conventions.name
  vpc_id    = module.network.vpc_id
  vpc_cidr  = module.network.vpc_cidr
  subnet_id = module.network.private_subnet_ids[0]
  tags      = module.conventions.component_tags.access
}

module "cluster" {
  source = "../../modules/cluster"

  name                          = module.conventions.name
  kubernetes_version            = var.kubernetes_version
  vpc_id                        = module.network.vpc_id
  private_subnet_ids            = module.network.private_subnet_ids
  intra_subnet_ids              = module.network.intra_subnet_ids
  api_access_cidrs              = var.api_access_cidrs
  api_client_security_group_ids = { access-host = module.access_host.security_group_id }
  access_entries                = var.access_entries
  deletion_protection           = var.deletion_protection
  tags                          = module.conventions.component_tags.cluster
}

module "system_nodes" {
  source = "../../modules/system-node-group"

  name                              = "system"
  cluster_name                      = module.cluster.name
  cluster_service_cidr              = module.cluster.service_cidr
  cluster_primary_security_group_id = module.cluster.primary_security_group_id
  security_group_ids                = [module.cluster.node_security_group_id]
  kubernetes_version                = coalesce(var.node_kubernetes_version, var.kubernetes_version)
  subnet_ids                        = module.network.private_subnet_ids
  instance_types                    = var.system_nodes.instance_types
  capacity_type                     = var.system_nodes.capacity_type
  size                              = var.system_nodes.size
  labels                            = module.conventions.pools.system.labels
  taints                            = module.conventions.pools.system.taints
  tags                              = module.conventions.component_tags["system-nodes"]
}

module "gpu_nodes" {
  source = "../../modules/gpu-node-group"

  name                              = "gpu"
  cluster_name                      = module.cluster.name
  cluster_service_cidr              = module.cluster.service_cidr
  cluster_primary_security_group_id = module.cluster.primary_security_group_id
  security_group_ids                = [module.cluster.node_security_group_id]
  kubernetes_version                = coalesce(var.node_kubernetes_version, var.kubernetes_version)
  subnet_ids                        = module.network.private_subnet_ids
  instance_types                    = var.gpu_nodes.instance_types
  capacity_type                     = var.gpu_nodes.capacity_type
  capacity_reservation_id           = var.gpu_nodes.capacity_reservation_id
  size                              = var.gpu_nodes.size
  labels                            = module.conventions.pools.gpu.labels
  taints                            = module.conventions.pools.gpu.taints
  tags                              = module.conventions.component_tags["gpu-nodes"]
}

module "night_schedule" {
  source = "../../modules/night-schedule"
  count  = var.night_schedule == null ? 0 : 1

  cluster_name = module.cluster.name
  node_groups = {
    (module.gpu_nodes.name)    = merge({ arn = module.gpu_nodes.arn }, module.gpu_nodes.size)
    (module.system_nodes.name) = merge({ arn = module.system_nodes.arn }, module.system_nodes.size)
  }
  off_cron = var.night_schedule.off_cron
  on_cron  = var.night_schedule.on_cron
  timezone = var.night_schedule.timezone
  tags     = module.conventions.tags
}

module "model_store" {
  source = "../../modules/model-store"

  bucket_name   = module.conventions.bucket_names.models
  force_destroy = var.force_destroy
  tags          = module.conventions.component_tags.models
}

module "telemetry_store" {
  source = "../../modules/telemetry-store"

  logs_bucket_name   = module.conventions.bucket_names.logs
  traces_bucket_name = module.conventions.bucket_names.traces
  force_destroy      = var.force_destroy
  tags               = module.conventions.component_tags.telemetry
}

module "workload_identity" {
  source = "../../modules/workload-identity"

  cluster_name = module.cluster.name
  workloads    = module.conventions.workloads
  bucket_arns  = merge({ models = module.model_store.bucket_arn }, module.telemetry_store.bucket_arns)
  tags         = module.conventions.tags
}

module "registry" {
  source = "../../modules/registry"

  repositories = module.conventions.image_repositories
  force_delete = var.force_destroy
  tags         = module.conventions.component_tags.registry
}

module "budget" {
  source = "../../modules/budget"

  name              = module.conventions.name
  environment       = var.environment
  environment_tag   = module.conventions.environment_tag
  monthly_limit_usd = var.monthly_limit_usd
  alert_emails      = var.alert_emails
  tags              = module.conventions.tags
}

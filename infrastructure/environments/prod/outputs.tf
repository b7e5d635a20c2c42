output "deploy_values" {
  description = "What the charts need, as Helm values. scripts/cluster-up writes it to a file for scripts/deploy."
  value = {
    global = {
      environment  = var.environment
      clusterName  = module.cluster.name
      region       = module.network.region
      registry     = "${data.aws_caller_identity.current.account_id}.dkr.ecr.${module.network.region}.amazonaws.com/${module.conventions.image_prefix}"
      storageClass = module.conventions.storage_class
      buckets      = merge({ models = module.model_store.bucket_name }, module.telemetry_store.bucket_names)
      roles        = module.workload_identity.role_names
      placement = {
        for pool, facts in module.conventions.pools : pool => {
          nodeSelector = facts.node_selector
          tolerations  = facts.tolerations
        }
      }
      serviceAccounts = { for workload, facts in module.conventions.workloads : workload => facts.service_account }
      loadBalancer    = { subnetIds = module.network.private_subnet_ids, internal = true }
    }
  }
}

output "access" {
  description = "What a person needs to reach the private API endpoint: docs/infrastructure.md shows the command."
  value = {
    instance_id = module.access_host.instance_id
    endpoint    = module.cluster.endpoint
  }
}

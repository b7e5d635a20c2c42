output "deploy_values" {
  description = "Helm values of this environment that the platform's charts read. cluster-up writes them to a file for scripts/deploy."
  value = {
    global = {
      region       = module.network.region
      registry     = "${data.aws_caller_identity.current.account_id}.dkr.ecr.${module.network.region}.amazonaws.com/${module.conventions.image_prefix}"
      storageClass = module.conventions.storage_class
      buckets      = merge({ models = module.model_store.bucket_name }, module.telemetry_store.bucket_names)
      placement = {
        for pool, facts in module.conventions.pools : pool => {
          nodeSelector = facts.node_selector
          tolerations  = facts.tolerations
        }
      }
    }
  }
}

output "release_values" {
  description = "Helm values that upstream charts need of this cluster, by release. cluster-up writes one file each."
  value = merge(
    {
      # Region and VPC are given because a pod cannot reach the instance metadata (hop limit 1).
      aws-load-balancer-controller = {
        clusterName    = module.cluster.name
        region         = module.network.region
        vpcId          = module.network.vpc_id
        serviceAccount = { create = true, name = module.conventions.controllers["aws-load-balancer-controller"].service_account }
        defaultTags    = module.conventions.component_tags.network
      }
    },
    var.node_autoscaler ? {
      cluster-autoscaler = {
        cloudProvider = "aws"
        awsRegion     = module.network.region
        autoDiscovery = { clusterName = module.cluster.name }
        rbac          = { serviceAccount = { create = true, name = module.conventions.controllers["cluster-autoscaler"].service_account } }
      }
    } : {},
  )
}

output "access" {
  description = "Instance and endpoint for the tunnel to the private API: docs/infrastructure.md shows the command."
  value = {
    instance_id = module.access_host.instance_id
    endpoint    = module.cluster.endpoint
  }
}

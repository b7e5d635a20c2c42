# Names, tags and the facts shared with the charts. Knows no provider, so `terraform test` runs it anywhere.

locals {
  contract = yamldecode(file("${path.module}/../../contract.yaml"))

  name = "${var.project}-${var.environment}"

  base_tags = {
    (local.contract.tags.project)     = var.project
    (local.contract.tags.environment) = var.environment
  }

  # EKS spells the effects of taints differently from Kubernetes.
  eks_effects = {
    NoSchedule       = "NO_SCHEDULE"
    NoExecute        = "NO_EXECUTE"
    PreferNoSchedule = "PREFER_NO_SCHEDULE"
  }

  pools = {
    for pool, facts in local.contract.pools : pool => {
      labels = facts.labels
      taints = {
        for taint in facts.taints : replace(taint.key, "/[^a-z0-9]/", "-") => {
          key    = taint.key
          value  = taint.value
          effect = local.eks_effects[taint.effect]
        }
      }
      node_selector = { (local.contract.pool_label) = facts.labels[local.contract.pool_label] }
      tolerations = [
        for taint in facts.taints : {
          key      = taint.key
          operator = "Equal"
          value    = taint.value
          effect   = taint.effect
        }
      ]
    }
  }

  bucket_names = {
    for purpose in ["models", "logs", "traces"] : purpose => "${local.name}-${purpose}-${var.account_id}"
  }
}

# AWS rights of the controllers inside the cluster, bound by Pod Identity to one service account each.

module "load_balancer_controller" {
  source  = "terraform-aws-modules/eks-pod-identity/aws"
  version = "2.8.1"

  name            = "${var.cluster_name}-load-balancer-controller"
  use_name_prefix = false

  attach_aws_lb_controller_policy = true
  aws_lb_controller_policy_name   = "${var.cluster_name}-load-balancer-controller"

  associations = {
    this = {
      cluster_name    = var.cluster_name
      namespace       = var.accounts["aws-load-balancer-controller"].namespace
      service_account = var.accounts["aws-load-balancer-controller"].service_account
    }
  }

  tags = var.tags
}

module "cluster_autoscaler" {
  source  = "terraform-aws-modules/eks-pod-identity/aws"
  version = "2.8.1"
  count   = var.node_autoscaler ? 1 : 0

  name            = "${var.cluster_name}-cluster-autoscaler"
  use_name_prefix = false

  attach_cluster_autoscaler_policy = true
  cluster_autoscaler_policy_name   = "${var.cluster_name}-cluster-autoscaler"
  cluster_autoscaler_cluster_names = [var.cluster_name]

  associations = {
    this = {
      cluster_name    = var.cluster_name
      namespace       = var.accounts["cluster-autoscaler"].namespace
      service_account = var.accounts["cluster-autoscaler"].service_account
    }
  }

  tags = var.tags
}

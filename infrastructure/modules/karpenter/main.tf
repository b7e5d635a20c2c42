# What Karpenter needs from AWS. Its controller is installed by a chart; its node pool is an output.

module "karpenter" {
  source  = "terraform-aws-modules/eks/aws//modules/karpenter"
  version = "21.19.0"

  cluster_name = var.cluster_name

  create_pod_identity_association = true
  namespace                       = "kube-system"
  service_account                 = "karpenter"

  iam_role_name                 = "${var.cluster_name}-karpenter"
  iam_role_use_name_prefix      = false
  node_iam_role_name            = "${var.cluster_name}-karpenter-node"
  node_iam_role_use_name_prefix = false
  node_iam_role_additional_policies = {
    session_manager = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
  }

  tags = var.tags
}

locals {
  node_class = {
    apiVersion = "karpenter.k8s.aws/v1"
    kind       = "EC2NodeClass"
    metadata   = { name = "gpu" }
    spec = {
      role                       = module.karpenter.node_iam_role_name
      amiSelectorTerms           = [{ alias = "al2023@${var.ami_alias_version}" }]
      subnetSelectorTerms        = [{ tags = { "karpenter.sh/discovery" = var.cluster_name } }]
      securityGroupSelectorTerms = [{ tags = { "karpenter.sh/discovery" = var.cluster_name } }]
      metadataOptions            = { httpTokens = "required", httpPutResponseHopLimit = 1 }
      blockDeviceMappings = [{
        deviceName = "/dev/xvda"
        ebs        = { volumeSize = "${var.disk_gib}Gi", volumeType = "gp3", encrypted = true, deleteOnTermination = true }
      }]
      tags = var.tags
    }
  }

  node_pool = {
    apiVersion = "karpenter.sh/v1"
    kind       = "NodePool"
    metadata   = { name = "gpu" }
    spec = {
      limits     = { "nvidia.com/gpu" = tostring(var.max_gpus) }
      disruption = { consolidationPolicy = "WhenEmpty", consolidateAfter = "10m" }
      template = {
        metadata = { labels = var.labels }
        spec = {
          nodeClassRef = { group = "karpenter.k8s.aws", kind = "EC2NodeClass", name = "gpu" }
          taints       = var.kubernetes_taints
          requirements = [
            { key = "node.kubernetes.io/instance-type", operator = "In", values = var.instance_types },
            { key = "karpenter.sh/capacity-type", operator = "In", values = var.capacity_types },
          ]
        }
      }
    }
  }
}

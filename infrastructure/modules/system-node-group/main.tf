# Nodes for everything without a GPU: edge, router, Redis, telemetry, add-ons.

module "nodes" {
  source  = "terraform-aws-modules/eks/aws//modules/eks-managed-node-group"
  version = "21.19.0"

  # A prefix: the replacement of a group exists before the old one goes, so both need a name.
  name                     = var.name
  use_name_prefix          = true
  iam_role_name            = "${var.name}-node"
  iam_role_use_name_prefix = false
  cluster_name             = var.cluster_name
  cluster_service_cidr     = var.cluster_service_cidr
  kubernetes_version       = var.kubernetes_version
  subnet_ids               = [var.subnet_id]

  # Exactly one group tagged for the cluster per interface, or the load balancer controller refuses the node.
  # EKS tags its primary group too, so that one stays away from nodes.
  vpc_security_group_ids = [var.security_group_id]
  create_security_group  = false

  ami_type                       = var.architecture == "arm64" ? "AL2023_ARM_64_STANDARD" : "AL2023_x86_64_STANDARD"
  ami_release_version            = var.ami_release_version
  use_latest_ami_release_version = false # a plan must not roll nodes because AWS published an image

  instance_types = var.instance_types
  capacity_type  = var.capacity_type

  min_size     = var.size.min
  desired_size = var.size.desired
  max_size     = var.size.max

  labels = var.labels
  taints = var.taints

  block_device_mappings = {
    root = {
      device_name = "/dev/xvda"
      ebs = {
        volume_size           = var.disk_gib
        volume_type           = "gp3"
        throughput            = var.disk_throughput_mib
        encrypted             = true
        delete_on_termination = true
      }
    }
  }

  # IMDSv2, one hop: pods cannot reach the node's credentials.
  metadata_options = {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # With prefix delegation a node has addresses for more pods than the image assumes.
  cloudinit_pre_nodeadm = [{
    content_type = "application/node.eks.aws"
    content = yamlencode({
      apiVersion = "node.eks.aws/v1alpha1"
      kind       = "NodeConfig"
      spec       = { kubelet = { config = { maxPods = var.max_pods } } }
    })
  }]

  update_config = { max_unavailable_percentage = 33 }

  # A person reaches a node (and, through it, the private API) by Session Manager; there are no SSH keys.
  iam_role_additional_policies = {
    session_manager = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
  }

  tags = var.tags
}

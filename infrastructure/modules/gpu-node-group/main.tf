# GPU nodes: the AL2023 NVIDIA image (driver inside), tainted so that only engines run there.

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

  ami_type                       = "AL2023_x86_64_NVIDIA"
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

  capacity_reservation_specification = var.capacity_reservation_id == null ? null : {
    capacity_reservation_target = { capacity_reservation_id = var.capacity_reservation_id }
  }

  # GPUs are scarce: an update removes one node before it starts the replacement.
  update_config = { max_unavailable = 1, update_strategy = "MINIMAL" }

  # Replaces nodes whose GPU reports a hardware fault; the node monitoring agent (an add-on) reports it.
  node_repair_config = { enabled = var.repair_nodes }

  # A person reaches a node (and, through it, the private API) by Session Manager; there are no SSH keys.
  iam_role_additional_policies = {
    session_manager = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
  }

  tags = var.tags
}

# The EKS control plane, who may reach it, and the add-ons every node needs.

locals {
  pinned_addons  = lookup(yamldecode(file("${path.module}/../../addon-versions.yaml")), var.kubernetes_version, {})
  addon_versions = merge({ for name, pin in local.pinned_addons : name => pin.version }, var.addon_versions)
}

module "api_access" {
  source = "../api-access"

  api_access_cidrs = var.api_access_cidrs
}

module "eks" {
  source  = "terraform-aws-modules/eks/aws"
  version = "21.19.0"

  name               = var.name
  kubernetes_version = var.kubernetes_version

  vpc_id                   = var.vpc_id
  subnet_ids               = var.private_subnet_ids
  control_plane_subnet_ids = var.intra_subnet_ids

  endpoint_private_access      = true
  endpoint_public_access       = module.api_access.public
  endpoint_public_access_cidrs = module.api_access.cidrs

  # Access entries only: a typo in an aws-auth ConfigMap can lock everybody out.
  authentication_mode = "API"
  # Without entries nobody could use the cluster, so the principal that applies becomes its administrator.
  enable_cluster_creator_admin_permissions = length(var.access_entries) == 0
  access_entries = {
    for name, entry in var.access_entries : name => {
      principal_arn = entry.principal_arn
      policy_associations = {
        main = {
          policy_arn = "arn:aws:eks::aws:cluster-access-policy/${entry.policy}"
          access_scope = {
            type       = length(entry.namespaces) > 0 ? "namespace" : "cluster"
            namespaces = length(entry.namespaces) > 0 ? entry.namespaces : null
          }
        }
      }
    }
  }

  # Secrets are encrypted with a key of our own; the module makes and rotates it.
  create_kms_key          = true
  enable_kms_key_rotation = true
  encryption_config       = { resources = ["secrets"] }

  enabled_log_types                      = ["api", "audit", "authenticator", "controllerManager", "scheduler"]
  cloudwatch_log_group_retention_in_days = var.log_retention_days

  deletion_protection = var.deletion_protection
  upgrade_policy      = { support_type = "STANDARD" }

  # Pod Identity is the one way to AWS rights; IRSA's OIDC provider is not needed.
  enable_irsa = false

  security_group_additional_rules = {
    for name, id in var.api_client_security_group_ids : name => {
      description              = "API from ${name}"
      from_port                = 443
      to_port                  = 443
      source_security_group_id = id
    }
  }

  # vpc-cni is below: nodes must not join before it has its settings.
  addons = {
    kube-proxy             = { addon_version = local.addon_versions["kube-proxy"], most_recent = false, before_compute = true }
    eks-pod-identity-agent = { addon_version = local.addon_versions["eks-pod-identity-agent"], most_recent = false, before_compute = true }
    coredns                = { addon_version = local.addon_versions["coredns"], most_recent = false }
    metrics-server         = { addon_version = local.addon_versions["metrics-server"], most_recent = false }
    # Reports GPU, kernel, storage and network faults as node conditions; node_repair_config acts on them.
    eks-node-monitoring-agent = {
      addon_version = local.addon_versions["eks-node-monitoring-agent"]
      most_recent   = false
      # GPU faults come from the add-on's DaemonSet dcgm-server. It selects GPU instance types but tolerates no taint.
      configuration_values = jsonencode({ dcgmAgent = { tolerations = [{ operator = "Exists" }] } })
    }
    aws-ebs-csi-driver = {
      addon_version = local.addon_versions["aws-ebs-csi-driver"]
      most_recent   = false
      configuration_values = jsonencode({
        defaultStorageClass = { enabled = true }
        # cost-report and cluster-down find volumes by these tags.
        controller = { extraVolumeTags = var.volume_tags, k8sTagClusterId = var.name }
      })
      pod_identity_association = [{ role_arn = aws_iam_role.ebs_csi.arn, service_account = "ebs-csi-controller-sa" }]
    }
  }
  # coredns becomes healthy once the first nodes, created at the same time, are ready.
  addons_timeouts = { create = "30m" }

  tags = var.tags
}

resource "aws_eks_addon" "vpc_cni" {
  cluster_name                = module.eks.cluster_name
  addon_name                  = "vpc-cni"
  addon_version               = local.addon_versions["vpc-cni"]
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  configuration_values = jsonencode({
    # Without this the API server accepts the charts' network policies and nothing enforces them.
    enableNetworkPolicy = "true"
    env = {
      ENABLE_PREFIX_DELEGATION = "true"
      WARM_PREFIX_TARGET       = "1"
    }
  })

  tags = var.tags
}

data "aws_iam_policy_document" "ebs_csi_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "ebs_csi" {
  name               = "${var.name}-ebs-csi"
  assume_role_policy = data.aws_iam_policy_document.ebs_csi_trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "ebs_csi" {
  role       = aws_iam_role.ebs_csi.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}

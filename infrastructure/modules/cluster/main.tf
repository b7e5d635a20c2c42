# The EKS control plane, who may reach it, and the add-ons every node needs.

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

  # Access entries only: no aws-auth ConfigMap that a typo can lock everybody out with.
  authentication_mode                      = "API"
  enable_cluster_creator_admin_permissions = false
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
    kube-proxy             = { addon_version = lookup(var.addon_versions, "kube-proxy", null), before_compute = true }
    eks-pod-identity-agent = { addon_version = lookup(var.addon_versions, "eks-pod-identity-agent", null), before_compute = true }
    coredns                = { addon_version = lookup(var.addon_versions, "coredns", null) }
    metrics-server         = { addon_version = lookup(var.addon_versions, "metrics-server", null) }
    aws-ebs-csi-driver = {
      addon_version            = lookup(var.addon_versions, "aws-ebs-csi-driver", null)
      configuration_values     = jsonencode({ defaultStorageClass = { enabled = true } })
      pod_identity_association = [{ role_arn = aws_iam_role.ebs_csi.arn, service_account = "ebs-csi-controller-sa" }]
    }
  }
  # coredns becomes healthy with the first nodes, which are made at the same time.
  addons_timeouts = { create = "30m" }

  node_security_group_tags = { "karpenter.sh/discovery" = var.name }

  tags = var.tags
}

resource "aws_eks_addon" "vpc_cni" {
  cluster_name                = module.eks.cluster_name
  addon_name                  = "vpc-cni"
  addon_version               = lookup(var.addon_versions, "vpc-cni", null)
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  configuration_values = jsonencode({
    # Without this the charts' network policies are accepted and never enforced.
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

# The add-on's default class sets no encryption, so the account does. It holds for the whole region.
resource "aws_ebs_encryption_by_default" "this" {
  count = var.encrypt_volumes_by_default ? 1 : 0

  enabled = true
}

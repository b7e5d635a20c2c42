# One role per workload, bound by Pod Identity to one service account, with rights on one bucket.

locals {
  # Named one by one: a wildcard would let an engine overwrite the weights it serves.
  object_actions = {
    read       = ["s3:GetObject"]
    read_write = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
  }
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "bucket" {
  for_each = var.workloads

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [var.bucket_arns[each.value.bucket]]
  }

  statement {
    sid       = "Objects"
    actions   = local.object_actions[each.value.access]
    resources = ["${var.bucket_arns[each.value.bucket]}/*"]
  }
}

resource "aws_iam_role" "this" {
  for_each = var.workloads

  name               = "${var.cluster_name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "bucket" {
  for_each = var.workloads

  name   = "bucket"
  role   = aws_iam_role.this[each.key].id
  policy = data.aws_iam_policy_document.bucket[each.key].json
}

resource "aws_eks_pod_identity_association" "this" {
  for_each = var.workloads

  cluster_name    = var.cluster_name
  namespace       = each.value.namespace
  service_account = each.value.service_account
  role_arn        = aws_iam_role.this[each.key].arn
  tags            = var.tags
}

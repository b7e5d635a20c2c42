# Sets node groups to zero in the evening and back in the morning, by a schedule in AWS.
# It only changes node groups: engines wait as Pending pods. scripts/night-off drains them first.

locals {
  actions = merge(
    { for key, group in var.node_groups : "${key}-off" => {
      cron = var.off_cron, group = group.name, size = { MinSize = 0, DesiredSize = 0, MaxSize = group.max }
    } },
    { for key, group in var.node_groups : "${key}-on" => {
      cron = var.on_cron, group = group.name, size = { MinSize = group.min, DesiredSize = group.desired, MaxSize = group.max }
    } },
  )
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "resize" {
  statement {
    actions   = ["eks:UpdateNodegroupConfig"]
    resources = [for group in values(var.node_groups) : group.arn]
  }
}

resource "aws_iam_role" "this" {
  name               = "${var.cluster_name}-night"
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "resize" {
  name   = "resize-node-groups"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.resize.json
}

resource "aws_scheduler_schedule" "this" {
  for_each = local.actions

  name                         = "${var.cluster_name}-${each.key}"
  schedule_expression          = "cron(${each.value.cron})"
  schedule_expression_timezone = var.timezone

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = "arn:aws:scheduler:::aws-sdk:eks:updateNodegroupConfig"
    role_arn = aws_iam_role.this.arn
    input = jsonencode({
      ClusterName   = var.cluster_name
      NodegroupName = each.value.group
      ScalingConfig = each.value.size
    })
  }
}

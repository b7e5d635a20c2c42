# Switches of a whole AWS account and region. Apply once per account and region, before the first environment; no
# environment owns them, so destroying one cannot change another.

# The EBS CSI add-on's default storage class sets no encryption; with this every new volume is encrypted.
resource "aws_ebs_encryption_by_default" "this" {
  enabled = true
}

# AWS makes most service-linked roles itself on first use. Name here those that a restricted principal cannot make, such
# as spot.amazonaws.com for SPOT node groups. Creating one that already exists fails.
resource "aws_iam_service_linked_role" "this" {
  for_each = toset(var.service_linked_roles)

  aws_service_name = each.value
}

# Billing counts a tag only once it is an activated cost allocation tag; budgets filter by it. AWS offers a tag for
# activation up to a day after a resource first carries it.
resource "aws_ce_cost_allocation_tag" "environment" {
  count = var.activate_cost_tag ? 1 : 0

  tag_key = yamldecode(file("${path.module}/../contract.yaml")).tags.environment
  status  = "Active"
}

# Applies an environment on mocks: no account, no call. What AWS would compute is made up; what our code and the
# upstream modules compute is real, and so are the provider's validators.

variables {
  access_entries = {
    operator = {
      principal_arn = "arn:aws:iam::123456789012:role/operator"
      policy        = "AmazonEKSClusterAdminPolicy"
    }
  }
  monthly_limit_usd = 1000
  alert_emails      = ["oncall@example.com"]
  night_schedule    = { off_cron = "0 20 ? * MON-FRI *", on_cron = "0 7 ? * MON-FRI *", timezone = "UTC" }
}

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }

  mock_data "aws_region" {
    defaults = { name = "us-east-1", region = "us-east-1" }
  }

  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }

  mock_data "aws_eks_addon_version" {
    defaults = { version = "v1.0.0-eksbuild.1" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/test" }
  }

  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/test" }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:us-east-1:123456789012:log-group:test" }
  }

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-east-1:123456789012:key/test" }
  }

  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }

  mock_resource "aws_eks_node_group" {
    defaults = {
      id  = "cluster:group"
      arn = "arn:aws:eks:us-east-1:123456789012:nodegroup/cluster/group/test"
    }
  }

  mock_resource "aws_eks_cluster" {
    defaults = {
      arn                   = "arn:aws:eks:us-east-1:123456789012:cluster/test"
      certificate_authority = [{ data = "dGVzdA==" }]
      # EKS makes this group and tags it for the cluster.
      vpc_config = { cluster_security_group_id = "sg-primary" }
    }
  }
}

run "apply" {}

# Plans an environment with the real provider and no account: only reads of AWS are replaced.
# terraform test -var-file=dev.tfvars

variables {
  access_entries = {
    operator = {
      principal_arn = "arn:aws:iam::123456789012:role/operator"
      policy        = "AmazonEKSClusterAdminPolicy"
    }
  }
  monthly_limit_usd = 1000
  alert_emails      = ["oncall@example.com"]
}

provider "aws" {
  region                      = var.region
  access_key                  = "testing"
  secret_key                  = "testing"
  max_retries                 = 1
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

override_data {
  target = data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.cluster.module.eks.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.cluster.module.eks.module.kms.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.network.module.vpc.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.gpu_nodes["a"].module.nodes.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.gpu_nodes["b"].module.nodes.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.gpu_nodes["c"].module.nodes.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.system_nodes["a"].module.nodes.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.system_nodes["b"].module.nodes.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.system_nodes["c"].module.nodes.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.controllers.module.load_balancer_controller.data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.controllers.module.cluster_autoscaler[0].data.aws_caller_identity.current
  values = { account_id = "123456789012", arn = "arn:aws:iam::123456789012:user/test" }
}

override_data {
  target = module.access_host.data.aws_ssm_parameter.image
  values = { insecure_value = "ami-0123456789abcdef0" }
}

override_data {
  target = module.network.module.endpoints.data.aws_vpc_endpoint_service.this
  values = { service_name = "com.amazonaws.us-east-1.test" }
}

run "plan" {
  command = plan
}

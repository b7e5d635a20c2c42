# The VPC: three zones, private subnets for nodes, and the ways out that a bill can bear.

data "aws_region" "current" {}

module "cidr_plan" {
  source = "../cidr-plan"

  vpc_cidr = var.vpc_cidr
}

module "vpc" {
  source  = "terraform-aws-modules/vpc/aws"
  version = "6.6.0"

  name = var.name
  cidr = var.vpc_cidr
  azs  = var.availability_zones

  private_subnets = module.cidr_plan.private
  public_subnets  = module.cidr_plan.public
  intra_subnets   = module.cidr_plan.intra

  enable_nat_gateway     = var.nat_strategy != "none"
  single_nat_gateway     = var.nat_strategy == "single"
  one_nat_gateway_per_az = var.nat_strategy == "per_zone"

  enable_dns_hostnames    = true
  enable_dns_support      = true
  map_public_ip_on_launch = false

  # The default security group has no rules, so nothing can rely on it.
  manage_default_security_group  = true
  default_security_group_ingress = []
  default_security_group_egress  = []

  enable_flow_log                                 = var.flow_log_retention_days > 0
  create_flow_log_cloudwatch_log_group            = true
  create_flow_log_cloudwatch_iam_role             = true
  flow_log_cloudwatch_log_group_retention_in_days = var.flow_log_retention_days
  flow_log_traffic_type                           = "REJECT"
  vpc_flow_log_iam_role_name                      = "${var.name}-flow-log"
  vpc_flow_log_iam_policy_name                    = "${var.name}-flow-log"

  private_subnet_tags = {
    "kubernetes.io/role/internal-elb" = "1"
  }
  public_subnet_tags = {
    "kubernetes.io/role/elb" = "1"
  }

  tags = var.tags
}

# Weights (S3) come over the gateway endpoint, images (ECR) over interface endpoints: neither pays NAT.
module "endpoints" {
  source  = "terraform-aws-modules/vpc/aws//modules/vpc-endpoints"
  version = "6.6.0"

  vpc_id = module.vpc.vpc_id

  create_security_group      = true
  security_group_name_prefix = "${var.name}-endpoints-"
  security_group_description = "HTTPS from the VPC to AWS services"
  security_group_rules = {
    https = {
      description = "HTTPS from the VPC"
      cidr_blocks = [module.vpc.vpc_cidr_block]
    }
  }
  subnet_ids = slice(module.vpc.intra_subnets, 0, var.interface_endpoint_zones)

  endpoints = merge(
    {
      s3 = {
        service         = "s3"
        service_type    = "Gateway"
        route_table_ids = concat(module.vpc.private_route_table_ids, module.vpc.intra_route_table_ids)
        tags            = { Name = "${var.name}-s3" }
      }
    },
    {
      for service in var.interface_endpoints : replace(service, ".", "-") => {
        service             = service
        private_dns_enabled = true
        tags                = { Name = "${var.name}-${service}" }
      }
    }
  )

  tags = var.tags
}

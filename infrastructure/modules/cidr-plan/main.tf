# Cuts one VPC range into subnets for three zones. Arithmetic only: no provider.
#
# A quarter of the range per zone goes to private subnets, because with prefix delegation every node takes
# /28 blocks. The last quarter holds the small ones: public (NAT and load balancers only) and intra
# (control-plane interfaces and endpoints, no route out).

locals {
  zones = 3

  cut = cidrsubnets(var.vpc_cidr, 2, 2, 2, 6, 6, 6, 6, 6, 6)

  private = slice(local.cut, 0, local.zones)
  public  = slice(local.cut, local.zones, 2 * local.zones)
  intra   = slice(local.cut, 2 * local.zones, 3 * local.zones)

  prefix_length = tonumber(split("/", var.vpc_cidr)[1])
}

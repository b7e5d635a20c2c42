run "a_sixteen_gives_big_private_and_small_other_subnets" {
  command = plan

  variables {
    vpc_cidr = "10.40.0.0/16"
  }

  assert {
    condition     = join(" ", output.private) == "10.40.0.0/18 10.40.64.0/18 10.40.128.0/18"
    error_message = "private: ${join(" ", output.private)}"
  }

  assert {
    condition     = join(" ", output.public) == "10.40.192.0/22 10.40.196.0/22 10.40.200.0/22"
    error_message = "public: ${join(" ", output.public)}"
  }

  assert {
    condition     = join(" ", output.intra) == "10.40.204.0/22 10.40.208.0/22 10.40.212.0/22"
    error_message = "intra: ${join(" ", output.intra)}"
  }

  assert {
    condition     = output.pods_per_private_subnet == 16368
    error_message = "pods: ${output.pods_per_private_subnet}"
  }
}

run "the_smallest_range_still_has_nine_distinct_subnets" {
  command = plan

  variables {
    vpc_cidr = "10.41.16.0/20"
  }

  assert {
    condition     = length(distinct(concat(output.private, output.public, output.intra))) == 9
    error_message = "subnets repeat"
  }
}

run "a_range_too_small_is_refused" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/24"
  }

  expect_failures = [var.vpc_cidr]
}

run "a_range_with_host_bits_is_refused" {
  command = plan

  variables {
    vpc_cidr = "10.0.1.0/16"
  }

  expect_failures = [var.vpc_cidr]
}

# A monthly budget for one environment: warns of what was spent and of what will be.

resource "aws_budgets_budget" "this" {
  name         = "${var.name}-monthly"
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_limit_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"
  tags         = var.tags

  # The tag must be activated as a cost allocation tag in the billing console once, or nothing is counted.
  cost_filter {
    name   = "TagKeyValue"
    values = [join("$", ["user:${var.environment_tag}", var.environment])]
  }

  dynamic "notification" {
    for_each = { spent_half = ["ACTUAL", 50], spent_most = ["ACTUAL", 80], will_exceed = ["FORECASTED", 100] }

    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = notification.value[0]
      threshold                  = notification.value[1]
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = var.alert_emails
    }
  }
}

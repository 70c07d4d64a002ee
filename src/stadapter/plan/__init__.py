"""What a training costs on this machine, measured on real steps, and how to make it fit."""

from stadapter.plan.memory import parse_bytes
from stadapter.plan.plan import Plan, PlanConfig, make_plan
from stadapter.plan.text import plan_json, plan_text

__all__ = ["Plan", "PlanConfig", "make_plan", "parse_bytes", "plan_json", "plan_text"]

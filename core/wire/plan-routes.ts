import { z } from 'zod';
import type { RestRoute } from './rest.js';
import { opAnswerSchema, refSchema } from './rest-objects.js';
import {
  balanceViewSchema,
  capacityQuerySchema,
  capacityViewSchema,
  rollingBeginSchema,
  rollingQuerySchema,
  rollingViewSchema,
  ruleCreateSchema,
  ruleListSchema,
  ruleViewSchema,
} from './rest-plan.js';

/** Routes about where VMs are: balance, capacity, rolling work, rules. */
export const planRoutes = {
  balanceGet: {
    method: 'get',
    path: '/balance',
    tag: 'cluster',
    summary: 'Live migrations that would even the cluster out, each with why, before, after and cost',
    status: 200,
    response: balanceViewSchema,
  },
  capacityGet: {
    method: 'get',
    path: '/capacity',
    tag: 'cluster',
    summary: 'How many more VMs of a size fit, each with a standby; days until memory and pools are full',
    query: capacityQuerySchema,
    status: 200,
    response: capacityViewSchema,
  },
  rollingGet: {
    method: 'get',
    path: '/rolling',
    tag: 'cluster',
    summary: 'In which order nodes could go down for work, what moves before, and which cannot be emptied',
    query: rollingQuerySchema,
    status: 200,
    response: rollingViewSchema,
  },
  rollingBegin: {
    method: 'post',
    path: '/rolling',
    tag: 'cluster',
    summary:
      'Restart or update nodes in turn, each emptied before and well after; ends at the first that is not',
    body: rollingBeginSchema,
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  ruleList: {
    method: 'get',
    path: '/rules',
    tag: 'cluster',
    summary: 'Rules of where VMs are: what breaks each now, and which cannot all be kept',
    status: 200,
    response: ruleListSchema,
  },
  ruleCreate: {
    method: 'post',
    path: '/rules',
    tag: 'cluster',
    summary: 'Make a rule; one that must hold and cannot, with those there are, is refused',
    body: ruleCreateSchema,
    status: 201,
    response: ruleViewSchema,
    idempotent: true,
  },
  ruleDelete: {
    method: 'delete',
    path: '/rules/{rule}',
    tag: 'cluster',
    summary: 'Remove a rule',
    params: z.strictObject({ rule: refSchema }),
    status: 204,
    response: z.null(),
  },
} as const satisfies Record<string, RestRoute>;

// usage: k6 run --vus 1000 --duration 60s scripts/load.k6.js
// Single orders over HTTP, from as many clients as there are VUs. SLUICEGATE_URL says where the program is.
import http from 'k6/http';
import { check } from 'k6';

const url = __ENV.SLUICEGATE_URL || 'http://127.0.0.1:8080';

export const options = { thresholds: { checks: ['rate>0.999'], http_req_duration: ['p(99)<500'] } };

export default function () {
  const body = JSON.stringify({
    customer_id: `CUST${__VU % 1000}`,
    product_id: `PROD${String((__ITER % 10) + 1).padStart(3, '0')}`,
    quantity: 1,
    amount: 199.99,
  });
  const answer = http.post(`${url}/order`, body, { headers: { 'Content-Type': 'application/json' } });
  check(answer, { accepted: (it) => it.status === 202 && it.json('status') === 'accepted' });
}

// The official Node SDK as the tests see it: one call per line of JSON on standard input, one
// outcome per line of JSON on standard output, in the order they come to an end.
//
//   node sdk.mjs HOST PORT KEY MAX_NETWORK_RETRIES
//
// The SDK is not modified: only where it sends is set.
import { createInterface } from 'node:readline';
import Stripe from 'stripe';

const [host, port, key, retries] = process.argv.slice(2);
const stripe = new Stripe(key, {
    host,
    port: Number(port),
    protocol: 'http',
    maxNetworkRetries: Number(retries),
});

function withFiles(params) {
    const { file, ...others } = params;
    if (file === undefined) {
        return params;
    }
    return { ...others, file: { ...file, data: Buffer.from(file.data, 'base64') } };
}

async function made({ what, id, params, options, all }) {
    const [resource, method] = what.split('.');
    const named = id === null ? [] : [id];
    const asked = stripe[resource][method](...named, withFiles(params), options);
    if (all) {
        return { body: await asked.autoPagingToArray({ limit: 100 }), headers: {}, status: 200 };
    }
    const body = await asked;
    return { body, headers: body.lastResponse.headers, status: body.lastResponse.statusCode };
}

async function outcome(call) {
    try {
        return { number: call.number, raised: null, ...(await made(call)) };
    } catch (error) {
        if (!(error instanceof Stripe.errors.StripeError)) {
            throw error;
        }
        const { headers, statusCode, requestId, detail, ...body } = error.raw;
        return {
            number: call.number,
            raised: error.type,
            status: error.statusCode ?? null,
            code: error.code ?? null,
            message: error.message,
            headers: error.headers ?? {},
            body: { error: body },
        };
    }
}

for await (const line of createInterface({ input: process.stdin })) {
    outcome(JSON.parse(line)).then((result) => console.log(JSON.stringify(result)));
}

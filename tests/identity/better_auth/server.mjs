// Better Auth as a team would set it up for its JWTs, once for each algorithm that it is named with:
// `node server.mjs EdDSA ES256 RS256`. Accounts live in memory. Prints {"EdDSA": "http://127.0.0.1:…", …} once it
// serves, and ends when its standard input does. Beside Better Auth's own routes, POST /rotate lets the signing key
// expire now, as it else would after the rotation interval.
import { once } from "node:events";
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins/jwt";

const A_DAY = 86_400;

async function start(algorithm) {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const baseURL = `http://127.0.0.1:${server.address().port}`;
  const tables = { user: [], session: [], account: [], verification: [], jwks: [] };
  // EdDSA is what comes unasked: as its documentation begins, `jwt()`. The others also sign what they keep in a cookie.
  const asked = algorithm !== "EdDSA";
  // As long as a session, as in many public set-ups.
  const lifetime = algorithm === "ES256" ? { jwt: { expirationTime: "7d" } } : {};
  const jwks = { rotationInterval: A_DAY, ...(asked && { keyPairConfig: { alg: algorithm } }) };
  const auth = betterAuth({
    baseURL,
    secret: "an-example-secret-of-32-bytes-or-more",
    database: memoryAdapter(tables),
    emailAndPassword: { enabled: true },
    session: asked ? { cookieCache: { enabled: true, strategy: "jwt" } } : {},
    plugins: [jwt({ jwks, ...lifetime, sessionCookieCache: asked })],
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    logger: { level: "warn" },
  });
  const answer = toNodeHandler(auth);
  server.on("request", (request, response) => {
    if (request.method === "POST" && request.url === "/rotate") {
      for (const key of tables.jwks) key.expiresAt = new Date();
      response.writeHead(204).end();
    } else {
      answer(request, response);
    }
  });
  return baseURL;
}

const urls = {};
for (const algorithm of process.argv.slice(2)) urls[algorithm] = await start(algorithm);
console.log(JSON.stringify(urls));
process.stdin.resume().on("end", () => process.exit());

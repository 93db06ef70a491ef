// An OpenID provider on loopback: prints its address, takes any password. argv: the settings of one client, as JSON.
import { createServer } from "node:http";
import { once } from "node:events";
import Provider from "oidc-provider";

const { client, people, idTokenClaims } = JSON.parse(process.argv[2]);
const server = createServer((request, response) => provider.callback()(request, response));
server.listen(0, "127.0.0.1");
await once(server, "listening");
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [client],
  claims: { openid: ["sub"], profile: ["name", "preferred_username", "groups"] },
  conformIdTokenClaims: !idTokenClaims, // true: claims of a scope are in userinfo only
  pkce: { required: () => true },
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id, ...people[id] }) }),
  features: { devInteractions: { enabled: true } },
});
console.log(JSON.stringify({ issuer }));
process.stdin.on("end", () => process.exit(0)).resume(); // never outlives who started it

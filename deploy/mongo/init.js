// Run by init.sh as root. Every step looks first whether it was done before.
try {
  rs.status();
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongo:27017" }] });
}
while (!db.hello().isWritablePrimary) sleep(100);

const lockstep = db.getSiblingDB("lockstep");
const account = { pwd: process.env.MONGO_PASSWORD, roles: [{ role: "readWrite", db: "lockstep" }] };
if (lockstep.getUser("lockstep") === null) {
  lockstep.createUser({ user: "lockstep", ...account });
} else {
  lockstep.updateUser("lockstep", account);
}

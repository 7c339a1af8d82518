// Package agreed keeps the group's agreed state in etcd: it runs a voting
// member inside this process or connects to the members elsewhere.
//
// It builds etcd from its server package and not from its embed package,
// because embed wants listeners of its own and refuses a loopback address as
// the source of peer connections. Here etcd speaks through the cluster port,
// so that a removed server is refused before etcd hears it, one address per
// server carries everything, and the lab can cut a server off by address.
package agreed

# The daemon in a container. `scripts/daemon-image` stages what is copied here (the build, the run-time packages and the
# Node.js that the program was tested with) and builds without a registry.
#
# It supervises the host it runs on, so it needs that host's namespaces, cgroups and engine:
#
#   docker run -d --name ringfenced --network host --pid host --cgroupns host --cap-drop ALL \
#     --cap-add NET_ADMIN --cap-add NET_RAW --cap-add SYS_ADMIN --cap-add SYS_PTRACE \
#     --cap-add KILL --cap-add CHOWN --cap-add FOWNER --cap-add DAC_OVERRIDE --cap-add DAC_READ_SEARCH \
#     --cap-add SETUID --cap-add SETGID \
#     --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined \
#     -v /sys/fs/cgroup:/sys/fs/cgroup -v /var/run/docker.sock:/var/run/docker.sock \
#     -v /etc/ringfence:/etc/ringfence:ro -v /var/lib/ringfence:/var/lib/ringfence -v /run/ringfence:/run/ringfence \
#     ringfence/daemon:local
#
# Profiles and mounts are read where the daemon is: give it the same folders under the same paths with further -v.
ARG BASE=ringfence/base:local
FROM ${BASE}
LABEL org.opencontainers.image.title="ringfenced" \
      org.opencontainers.image.description="Holds AI agents inside the boundary that a person wrote down for them." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY node /usr/local/bin/node
COPY app /opt/ringfence
RUN ["/bin/ln", "-s", "/opt/ringfence/dist/main.js", "/usr/local/bin/ringfence"]
ENTRYPOINT ["/usr/local/bin/ringfence"]
CMD ["daemon"]
STOPSIGNAL SIGTERM

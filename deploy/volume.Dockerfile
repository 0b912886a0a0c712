# The image for platforms that mount volumes which belong to root (Render, Fly): it is root while it
# gives /data to user 1000, and that user from then on. IMAGE is what your release published.
# hadolint ignore=DL3006
ARG IMAGE=ghcr.io/OWNER/rag-api:0.1.0
FROM ${IMAGE}
# hadolint ignore=DL3002
USER 0:0
CMD ["python", "m3_1_dockerize.py", "--serve", "--run-as", "1000:1000"]
